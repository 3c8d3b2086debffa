"""Clocks: the seconds of a call, and the operations a second that a machine reaches."""

import time

import torch


def matrix_rate(device, dtype):
    """Floating-point operations a second that the machine reaches: the better of a matrix product and a convolution."""
    n = 8192 if device.type == "cuda" else 2048
    a = torch.randn(n, n, device=device, dtype=dtype)
    x = torch.randn(n // 512, 256, 64, 64, device=device, dtype=dtype)
    kernel = torch.randn(256, 256, 3, 3, device=device, dtype=dtype)
    work = {lambda: a @ a: 2 * n**3, lambda: torch.conv2d(x, kernel, padding=1): 2 * x.numel() * 256 * 9}
    best = 0
    for operation, count in work.items():
        best = max(best, *(count / seconds(device, operation) for _ in range(6)))
    return best


def seconds(device, function, *args):
    """How long a call takes, the work on the device included."""
    wait(device)
    start = time.perf_counter()
    function(*args)
    wait(device)
    return time.perf_counter() - start


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize()
