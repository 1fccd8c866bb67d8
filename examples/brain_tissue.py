import torch
def raw_patches() -> torch.nn.Module:
    return RawPatches()
class RawPatches(torch.nn.Module):
    image_size, patch, resize = 1024, 32, "squash"
    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        grey = pixels.mean(dim=1, keepdim=True)
        small = torch.nn.functional.avg_pool2d(grey, 4)
        cells = torch.nn.functional.pixel_unshuffle(small, 8)
        return {"cls": small.flatten(1)[:, ::1024].contiguous(), "patches": cells.movedim(1, -1)}
