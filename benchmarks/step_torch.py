"""A training step of timm's model in torch, as a process that train_step.py and gpu.py drive.

It is run by an interpreter that has torch and timm, and speaks as step_ours.py does.
"""

import contextlib
import resource
import time

import torch

from benchmarks import turns

# torchvision, which timm imports, lacks its compiled part beside torch's CPU build and declares the
# shapes of its operators all the same.
_register = torch.library.register_fake
torch.library.register_fake = lambda name, *args, **kwargs: (
    (lambda function: function) if str(name).startswith('torchvision::')
    else _register(name, *args, **kwargs))
import timm  # noqa: E402

torch.library.register_fake = _register


def start(name: str, size: int, batch: int, dtype: str, compile: str):
    """Returns what turns.serve takes.

    Args:
      name: timm's variant.
      size: side of the images in pixels.
      batch: images of a step.
      dtype: 'float32', or 'bfloat16' for autocast.
      compile: '' for eager, else a mode of torch.compile.
    """
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(0)
    torch.set_float32_matmul_precision('highest')
    torch.backends.cudnn.benchmark = True
    options = {'img_size': size} if takes_size(name) else {}
    model = timm.create_model(name, num_classes=1000, **options).train()
    model = model.to(device, memory_format=torch.channels_last)
    images = torch.randn(batch, 3, size, size, device=device).contiguous(
        memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch,), device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True,
                                fused=device == 'cuda')
    loss_of = torch.nn.functional.cross_entropy
    casting = (torch.autocast(device, torch.bfloat16) if dtype == 'bfloat16'
               else contextlib.nullcontext())
    forward = torch.compile(model, mode=compile) if compile else model

    def run(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            if compile:
                torch.compiler.cudagraph_mark_step_begin()
            with casting:
                loss = loss_of(forward(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss.item()
        if device == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter() - began

    compiling = run(1)
    run(2)  # CUDA graphs are recorded in the second and third
    if device == 'cuda':  # what compiling took is not the step's
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    ready = {'compile': max(0.0, compiling - run(1)), 'parameters': sum(
        parameter.numel() for parameter in model.parameters())}
    return run, ready, memory_mb


def takes_size(name: str) -> bool:
    """Tells whether the model is built for one size of image."""
    return name.startswith(('vit', 'deit', 'swin', 'mixer', 'eva02', 'beit'))


def memory_mb() -> dict:
    """Returns the most that was held: on the device, else by the process."""
    if torch.cuda.is_available():
        return {'peak': torch.cuda.max_memory_allocated() / 2**20,
                'reserved': torch.cuda.max_memory_reserved() / 2**20}
    return {'peak': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}


if __name__ == '__main__':
    turns.serve(start)
