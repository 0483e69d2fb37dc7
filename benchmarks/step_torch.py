"""A training step of timm's model in torch as a process that benchmarks/train_step.py drives.

Its one argument is JSON: name, size, batch, dtype, compile. It speaks as step_ours.py does, and is
run by an interpreter that has torch and timm.
"""

import contextlib
import json
import resource
import sys
import time

import torch

# torchvision, which timm imports, lacks its compiled part beside torch's CPU build and declares the
# shapes of its operators all the same.
_register = torch.library.register_fake
torch.library.register_fake = lambda name, *args, **kwargs: (
    (lambda function: function) if str(name).startswith('torchvision::')
    else _register(name, *args, **kwargs))
import timm  # noqa: E402

torch.library.register_fake = _register


def prepare(name: str, size: int, batch: int, dtype: str, compile: str):
    """Returns a function that runs the given number of steps and returns the seconds.

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
    options = {'img_size': size} if takes_size(name) else {}
    model = timm.create_model(name, num_classes=1000, **options).train()
    model = model.to(device, memory_format=torch.channels_last)
    images = torch.randn(batch, 3, size, size, device=device).contiguous(
        memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch,), device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    loss_of = torch.nn.functional.cross_entropy
    casting = (torch.autocast(device, torch.bfloat16) if dtype == 'bfloat16'
               else contextlib.nullcontext())
    forward = torch.compile(model, mode=compile) if compile else model

    def run(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            with casting:
                loss = loss_of(forward(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss.item()
        if device == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return run


def takes_size(name: str) -> bool:
    """Tells whether the model is built for one size of image."""
    return name.startswith(('vit', 'deit', 'swin', 'mixer', 'eva02', 'beit'))


def memory_mb() -> float:
    """Returns the most that was held: on the device, else by the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    run = prepare(**json.loads(sys.argv[1]))
    compiling = run(1)
    print(json.dumps({'compile': max(0.0, compiling - run(1))}), flush=True)
    for line in sys.stdin:
        print(json.dumps({'seconds': run(int(line)), 'memory': memory_mb()}), flush=True)


if __name__ == '__main__':
    main()
