"""How many planted copies imgjax/evals/duplicates.py finds, by what was done to them.

    python -m benchmarks.duplicates
    python -m benchmarks.duplicates --data=../shared/data --pictures=/tmp/pairs

The sets are scikit-learn's digits (8 x 8 pixels) and, in --data, random images of
cifar10_jpeg.zip (32 x 32) and all of imagenet_sample_200.zip (photographs). For each kind of copy,
200 images are copied and added to the set as its evaluation split; a number is the percentage of
the copies that are in a group with their original. The last rows say what is found in the set
itself, without copies: an image is a false alarm if it has no duplicate in truth, which only a
person can say, so that --pictures writes the pairs as PNG files.
"""

import io
import pathlib
import time
import zipfile

import numpy as np
from absl import app, flags
from PIL import Image

from imgjax.evals import duplicates, near_duplicates

_DATA = flags.DEFINE_string('data', '', 'Folder with the zip files; digits only without it.')
_PICTURES = flags.DEFINE_string('pictures', '', 'Folder for pictures of the pairs in the sets.')
_CIFAR = flags.DEFINE_integer('cifar', 3000, 'How many images of CIFAR-10.')
COPIES = 200


def digits() -> list[np.ndarray]:
    """Returns scikit-learn's digits, uint8 (8, 8, 3)."""
    from sklearn.datasets import load_digits

    grey_NHW = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    return [np.stack([grey_HW] * 3, axis=-1) for grey_HW in grey_NHW]


def zipped(path: pathlib.Path, count: int | None = None) -> list[np.ndarray]:
    """Returns images of a zip file of JPEGs, uint8 (H, W, 3); `count` random ones, None is all."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist()
                       if name.lower().endswith(('.jpg', '.jpeg')))
        if count is not None:
            names = np.random.default_rng(0).choice(names, count, replace=False).tolist()
        return [decoded(archive.read(name)) for name in names]


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert('RGB'))


def encoded(image_HWC: np.ndarray, name: str, **options) -> np.ndarray:
    """Returns an image after it was written as a file of a format, and read."""
    file = io.BytesIO()
    Image.fromarray(image_HWC).save(file, name, **options)
    return decoded(file.getvalue())


def jpeg(image_HWC: np.ndarray) -> np.ndarray:
    return encoded(image_HWC, 'JPEG', quality=50)


def resized(image_HWC: np.ndarray) -> np.ndarray:
    height, width, _ = image_HWC.shape
    size = round(width * 0.6), round(height * 0.6)
    return np.asarray(Image.fromarray(image_HWC).resize(size, Image.Resampling.BICUBIC))


def mirrored(image_HWC: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image_HWC[:, ::-1])


def brighter(image_HWC: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image_HWC * np.float32(1.15)), 0, 255).astype(np.uint8)


def cropped(image_HWC: np.ndarray, y: float, x: float, share: float = 0.8) -> np.ndarray:
    """Returns a share of each side; y and x place it, from 0 (top, left) to 1 (bottom, right)."""
    height, width = (round(side * share) for side in image_HWC.shape[:2])
    top, left = round(y * (image_HWC.shape[0] - height)), round(x * (image_HWC.shape[1] - width))
    return np.ascontiguousarray(image_HWC[top:top + height, left:left + width])


def randomly_cropped(share: float):
    """Returns a function that crops at random places, the same ones in every run."""
    rng = np.random.default_rng(0)
    return lambda image_HWC: cropped(image_HWC, rng.uniform(), rng.uniform(), share)


KINDS = {
    'PNG': lambda image: encoded(image, 'PNG'),
    'JPEG, quality 50': jpeg,
    'resized to 60 %': resized,
    'brightness +15 %': brighter,
    'mirrored': mirrored,
    'cropped to 80 %, centre': lambda image: cropped(image, 0.5, 0.5),
    'cropped to 80 %, corner': lambda image: cropped(image, 0, 1),
    'cropped to 90 %, random place': randomly_cropped(0.9),
    'cropped to 80 %, random place': randomly_cropped(0.8),
    'cropped to 70 %, random place': randomly_cropped(0.7),
    'resized, JPEG': lambda image: jpeg(resized(image)),
    'mirrored, brighter, JPEG': lambda image: jpeg(brighter(mirrored(image))),
    'corner, mirrored, JPEG': lambda image: jpeg(mirrored(cropped(image, 0, 1))),
}


def described(images: list[np.ndarray]) -> tuple[list[str], np.ndarray]:
    """Returns the hashes and descriptors of images of any sizes."""
    return ([duplicates.pixel_hash(image) for image in images],
            np.concatenate([near_duplicates.describe(image[None]) for image in images]))


def recall(images: list[np.ndarray], hashes: list[str], descriptors_ND: np.ndarray,
           copy) -> float:
    """Returns the share of the copies that are in a group with their original."""
    count = len(images)
    originals = np.random.default_rng(1).choice(count, min(COPIES, count), replace=False)
    copied, copied_MD = described([copy(images[i]) for i in originals])
    total = count + len(copied)
    found = duplicates.measure(
        hashes + copied, np.concatenate([descriptors_ND, copied_MD]), np.zeros(total, int),
        np.arange(total) >= count)
    group_N = np.arange(total)
    for group in found['groups']:
        group_N[group['indices']] = group['indices'][0]
    return float((group_N[originals] == group_N[count:]).mean())


def save_pairs(images: list[np.ndarray], groups: list[dict], path: pathlib.Path) -> None:
    """Writes the first two images of every group side by side, ten groups in a row, as a PNG."""
    sheet = Image.new('RGB', (1480, 74 * max(1, -(-len(groups) // 10))), 'white')
    for number, group in enumerate(groups):
        for place, index in enumerate(group['indices'][:2]):
            at = 148 * (number % 10) + 68 * place, 74 * (number // 10)
            sheet.paste(Image.fromarray(images[index]).resize((66, 66)), at)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def column(name: str, images: list[np.ndarray]) -> list[str]:
    """Returns the column of a set in the table."""
    hashes, descriptors_ND = described(images)
    begin = time.perf_counter()
    own = duplicates.measure(hashes, descriptors_ND, np.zeros(len(images), int),
                             np.zeros(len(images), bool))
    seconds = time.perf_counter() - begin
    if _PICTURES.value:
        save_pairs(images, own['groups'], pathlib.Path(_PICTURES.value) / f'{name}.png')
    cells = [f'{100 * recall(images, hashes, descriptors_ND, copy):.1f}' for copy in KINDS.values()]
    extra = sum(len(group['indices']) - 1 for group in own['groups'])
    return [f'{name} ({len(images):,})', *cells, f'{own["threshold"]:.4f}',
            str(own['exact_groups']), str(own['near_groups']),
            f'{1000 * extra / len(images):.2f}', f'{seconds:.1f}']


def main(_) -> None:
    sets = {'digits': digits}
    if _DATA.value:
        folder = pathlib.Path(_DATA.value)
        sets['CIFAR-10'] = lambda: zipped(folder / 'cifar10_jpeg.zip', _CIFAR.value)
        sets['ImageNet'] = lambda: zipped(folder / 'imagenet_sample_200.zip')
    columns = [column(name, read()) for name, read in sets.items()]
    rows = ['copies found, %', *KINDS, 'threshold', 'exact groups in the set',
            'near groups in the set', 'duplicates per 1,000 images of the set', 'seconds']
    for number, row in enumerate(rows):
        print(f'| {row} | {" | ".join(each[number] for each in columns)} |')
        if not number:
            print('|---' * (len(columns) + 1) + '|')


if __name__ == '__main__':
    app.run(main)
