"""Files of weights as named arrays: safetensors, torch's, NumPy's. Nothing in them is executed."""

import os
import re
import zipfile

import numpy as np
import safetensors

from imgjax.errors import DataError
from imgjax.interop import torch_file

FORMATS = ('.safetensors', '.pth', '.pt', '.bin', '.npz')
# Names become paths of parameters and columns of messages, never paths of files.
_NAME = re.compile(r'[A-Za-z0-9_.:/\- ]{1,300}')
# Where a training checkpoint keeps what its model's state_dict() gave.
_INSIDE = ('state_dict_ema', 'model_ema', 'state_dict', 'model', 'net')


def read(path: str) -> dict[str, np.ndarray]:
    """Returns {name: array}, floats as float32.

    Raises:
      DataError: another format, damaged, or not a dict of tensors; one line that names the file.
    """
    if not os.path.isfile(path):
        raise DataError(f'{path}: no such file of weights')
    if path.endswith('.safetensors'):
        tensors = _read_safetensors(path)
    elif path.endswith('.npz'):
        tensors = _read_npz(path)
    elif path.endswith(FORMATS):
        tensors = _state_dict(torch_file.read(path), path)
    else:
        raise DataError(f'{path}: takes a file that ends with {", ".join(FORMATS)}')
    for name in tensors:
        if not _NAME.fullmatch(name) or '..' in name or name.startswith('/'):
            raise DataError(f'{path}: a tensor is called {name[:80]!r}, which no model has')
    return {name: array.astype(np.float32) if _is_float(array) else array
            for name, array in tensors.items()}


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == 'f' or array.dtype.name == 'bfloat16'


def _read_safetensors(path: str) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, framework='numpy') as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # the library's own, and NumPy's on what it cannot hold
        text = ' '.join(str(error).split())[:200]
        raise DataError(f'{path}: not a safetensors file that can be used ({text})') from None


def _read_npz(path: str) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(info.file_size for info in archive.infolist())
        if declared > 100 * os.path.getsize(path):
            raise ValueError(f'it unpacks to {declared} bytes')
        with np.load(path) as archive:  # refuses pickled objects by default
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        text = ' '.join(str(error).split())[:200]
        raise DataError(f'{path}: not an .npz of arrays that can be used ({text})') from None


def _state_dict(saved, path: str) -> dict[str, np.ndarray]:
    """Finds the tensors in what torch.save was given."""
    for name in _INSIDE:
        if isinstance(saved, dict) and isinstance(saved.get(name), dict):
            saved = saved[name]
    if not isinstance(saved, dict):
        raise DataError(f'{path}: holds no state_dict, but a {type(saved).__name__}')
    tensors = {name: value for name, value in saved.items() if isinstance(value, np.ndarray)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        raise DataError(f'{path}: holds no tensors')
    if all(name.startswith('module.') for name in tensors):  # of a DataParallel model
        tensors = {name.removeprefix('module.'): value for name, value in tensors.items()}
    return tensors
