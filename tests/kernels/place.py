"""Where kernels are checked: on a CUDA device, else by Triton's interpreter on the CPU."""

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
