"""Features that leave or enter a home: export to other formats, import of foreign embeddings, merge of stores."""

from featcache.exchange.exporting import FORMATS, ExportFormat, export
from featcache.exchange.importing import import_files
from featcache.exchange.merging import MergeReport, merge
from featcache.exchange.restoring import import_export, is_export
from featcache.store import store_from_arrays

__all__ = [
    "ExportFormat",
    "FORMATS",
    "MergeReport",
    "export",
    "import_export",
    "import_files",
    "is_export",
    "merge",
    "store_from_arrays",
]
