"""DINOv2 written out from its papers, on the tensors of the authors' files: the reference of the fidelity tests.

Oquab et al. (arXiv 2304.07193), Darcet et al. (arXiv 2309.16588): pre-norm blocks with LayerNorm (eps 1e-6), layer
scale after attention and MLP, a class token with a position of its own, registers without positions between it and
the patches; the giant's MLP is SwiGLU. The position grid is 37 x 37.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

__all__ = ["dinov2_features", "resized_positions"]

Tensors = Mapping[str, torch.Tensor]


def dinov2_features(tensors: Tensors, pixels: torch.Tensor, *, heads: int, depth: int) -> dict[str, torch.Tensor]:
    """``cls``, ``intermediate``, ``patch_mean`` and ``patches`` of (B, 3, S, S) pixels."""
    weight, bias = tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"]
    patch = weight.shape[-1]
    count, side = len(pixels), pixels.shape[-1] // patch
    cells = pixels.reshape(count, 3, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5).reshape(count, side * side, -1)
    registers = tensors.get("register_tokens")
    positions = resized_positions(tensors["pos_embed"], side, has_registers=registers is not None)
    patches = cells @ weight.flatten(1).T + bias + positions[:, 1:]
    first = (tensors["cls_token"] + positions[:, :1]).expand(count, -1, -1)
    between = [] if registers is None else [registers.expand(count, -1, -1)]
    tokens = torch.cat([first, *between, patches], dim=1)
    classes = []
    for number in range(depth):
        tokens = _block(tokens, tensors, f"blocks.{number}.", heads)
        classes.append(_normed(tokens, tensors, "norm.")[:, 0])
    last = _normed(tokens, tensors, "norm.")[:, tokens.shape[1] - side * side :]
    return {
        "cls": classes[-1],
        "intermediate": torch.stack(classes[-4:-1], dim=1),
        "patch_mean": last.mean(dim=1),
        "patches": last.reshape(count, side, side, -1),
    }


def resized_positions(table: torch.Tensor, side: int, *, has_registers: bool) -> torch.Tensor:
    """Bicubic by the factor (side + 0.1) / 37; with registers to the exact size, antialiased."""
    if side == 37:
        return table
    grid = table[0, 1:].T.reshape(1, -1, 37, 37)
    if has_registers:
        grid = torch.nn.functional.interpolate(grid, size=(side, side), mode="bicubic", antialias=True)
    else:
        grid = torch.nn.functional.interpolate(grid, scale_factor=(side + 0.1) / 37, mode="bicubic")
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def _block(tokens: torch.Tensor, tensors: Tensors, at: str, heads: int) -> torch.Tensor:
    attended = _attention(_normed(tokens, tensors, f"{at}norm1."), tensors, f"{at}attn.", heads)
    tokens = tokens + tensors[f"{at}ls1.gamma"] * attended
    inner = _normed(tokens, tensors, f"{at}norm2.")
    if f"{at}mlp.w12.weight" in tensors:
        gate, value = _linear(inner, tensors, f"{at}mlp.w12.").chunk(2, dim=-1)
        out = _linear(gate * torch.sigmoid(gate) * value, tensors, f"{at}mlp.w3.")
    else:
        hidden = _linear(inner, tensors, f"{at}mlp.fc1.")
        out = _linear(hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5)), tensors, f"{at}mlp.fc2.")
    return tokens + tensors[f"{at}ls2.gamma"] * out


def _attention(tokens: torch.Tensor, tensors: Tensors, at: str, heads: int) -> torch.Tensor:
    count, length, width = tokens.shape
    stacked = _linear(tokens, tensors, f"{at}qkv.").reshape(count, length, 3, heads, width // heads)
    query, key, value = stacked.permute(2, 0, 3, 1, 4)
    shares = torch.softmax(query @ key.transpose(-2, -1) / (width // heads) ** 0.5, dim=-1)
    return _linear((shares @ value).transpose(1, 2).reshape(count, length, width), tensors, f"{at}proj.")


def _linear(rows: torch.Tensor, tensors: Tensors, at: str) -> torch.Tensor:
    return rows @ tensors[f"{at}weight"].T + tensors[f"{at}bias"]


def _normed(rows: torch.Tensor, tensors: Tensors, at: str) -> torch.Tensor:
    centred = rows - rows.mean(dim=-1, keepdim=True)
    spread = centred.square().mean(dim=-1, keepdim=True)
    return centred / torch.sqrt(spread + 1e-6) * tensors[f"{at}weight"] + tensors[f"{at}bias"]
