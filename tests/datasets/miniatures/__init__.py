"""Miniatures of published datasets, made on the fly: the exact file names and columns, few and small pixels."""
