# SPDX-License-Identifier: MIT
"""SSIMULACRA 2.1 (Sneyers 2022, github.com/cloudinary/ssimulacra2) with numpy, many times as fast as the package of that name.

The package's definition, to its borders: windows see 0 beyond the left and right of a picture and its mirror image above and
below. In float32, yet a test finds the same scores to 0.001: the structure term is taken as the variance of the error over
those of the pictures, where nothing cancels. The weights are the reference's: LICENSE-ssimulacra2.
"""

from typing import Final

import numpy as np

from fewbits.structure import WINDOW, gaussian_means, matrix_product

SMALLEST: Final = 8  # the shorter side of a scale, in pixels
SCALES: Final = 6
BAND: Final = 48  # rows at a time: few enough for the caches; even
PAD: Final = WINDOW // 2
SLIGHT: Final = 0.01  # weights below it move no score by 0.01
_SPARSE: Final = 8  # bands: of channels that weigh so little one of so many is taken
C2: Final = np.float32(0.0009)
CODES: Final = np.arange(256) / 255
LINEAR: Final = np.where(CODES <= 0.04045, CODES / 12.92, ((CODES + 0.055) / 1.055) ** 2.4).astype(np.float32)  # of sRGB
BIAS: Final = 0.0037930732552754493
CONES: Final = np.array(  # linear R, G, B -> long, middle, short
    [
        [0.30, 0.622, 0.078],
        [0.23, 0.692, 0.078],
        [0.24342268924547819, 0.20476744424496821, 0.5518098665095536],
    ],
    np.float32,
)
XYB: Final = np.array([[7, -7, 0], [0.5, 0.5, 0], [-0.5, -0.5, 1]], np.float32)  # cube roots of them -> X, Y, B less Y
OFFSETS: Final = np.array([0.42, 0.01 - np.cbrt(BIAS), 0.55], np.float32)[:, None, None]  # so that all are positive
FACTOR: Final = 0.9562382616834844  # of the weights
_CUBIC: Final = (2.326765642916932, -0.020884521182843837, 6.248496625763138e-05)
# For each channel and scale: of the means, then of the 4-norms, of the error, of edges gained, of edges lost.
_WEIGHTS: Final = np.array([
    (  # X
        (0, 0.0007376606707406586, 0, 0, 0.0007793481682867309, 0),
        (0, 0.0004371155730107379, 0, 1.1041726426657346, 0.00066284834129271, 0.00015231632783718752),
        (0, 0.0016406437456599754, 0, 1.8422455520539298, 11.441172603757666, 0),
        (0.0007989109436015163, 0.000176816438078653, 0, 1.8787594979546387, 10.94906990605142, 0),
        (0.0007289346991508072, 0.9677937080626833, 0, 0.00014003424285435884, 0.9981766977854967, 0.00031949755934435053),
        (0.0004550992113792063, 0, 0, 0.0013648766163243398, 0, 0),
    ),
    (  # Y
        (0, 0, 0, 7.466890328078848, 0, 17.445833984131262),
        (0.0006235601634041466, 0, 0, 6.683678146179332, 0.00037724407979611296, 1.027889937768264),
        (225.20515300849274, 0, 0, 19.213238186143016, 0.0011401524586618361, 0.001237755635509985),
        (176.39317598450694, 0, 0, 24.43300999870476, 0.28520802612117757, 0.0004485436923833408),
        (0, 0, 0, 34.77906344483772, 44.835625328877896, 0),
        (0, 0, 0, 0, 0, 0),
    ),
    (  # B
        (0, 0.0008680556573291698, 0, 0, 0, 0),
        (0, 0.0005313191874358747, 0, 0.00016533814161379112, 0, 0),
        (0, 0, 0, 0.0004179171803251336, 0.0017290828234722833, 0),
        (0.0020827005846636437, 0, 0, 8.826982764996862, 23.19243343998926, 0),
        (95.1080498811086, 0.9863978034400682, 0.9834382792465353, 0.0012286405048278493, 171.2667255897307, 0.9807858872435379),
        (0, 0, 0, 0.0005130064588990679, 0, 0.00010854057858411537),
    ),
])  # fmt: skip


def score(original: np.ndarray, decoded: np.ndarray) -> float:
    """Of two uint8 RGB pictures (h, w, 3) of one size, at least SMALLEST a side; 100 for equal ones."""
    pictures = [pixels.transpose(2, 0, 1) for pixels in (original, decoded)]
    weights = weights_for(min(original.shape[:2]))
    total = 0.0
    for scale in range(weights.shape[1]):
        norms, pictures = _norms(pictures[0], pictures[1], weights[:, scale].max(1) >= SLIGHT)
        total += FACTOR * float((weights[:, scale] * norms).sum())
    return score_of(total)


def score_of(total: float) -> float:
    """The score of a weighted sum of errors."""
    distance = sum(factor * total**power for power, factor in enumerate(_CUBIC, 1))
    return float(100 - 10 * max(distance, 0.0) ** 0.6276336467831387)


def weights_for(side: int) -> np.ndarray:
    """Those of a picture whose shorter side is given, (3 channels, its scales, 6)."""
    scales = 0
    while scales < SCALES and side >= SMALLEST:
        scales, side = scales + 1, -(-side // 2)
    # So in the reference: where scales are missing, the weights of those left move up.
    return _WEIGHTS.ravel()[: scales * _WEIGHTS[0, 0].size * len(_WEIGHTS)].reshape(len(_WEIGHTS), scales, -1)


def _norms(x: np.ndarray, y: np.ndarray, weighty: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Two pictures, uint8 sRGB or float32 linear (3, h, w) -> (3 channels, their weights' order), and both halved, linear.

    weighty: bool (3,), the channels to be taken whole; the others count for so little that every _SPARSE-th band will do.
    """
    _, height, width = x.shape
    halves = [np.empty((3, -(-height // 2), -(-width // 2)), np.float32) for _ in range(2)]
    sums, rows_seen = np.zeros((3, 2, 3)), np.zeros(3)
    for number, start in enumerate(range(0, height, BAND)):
        stop = min(start + BAND, height)
        channels = np.flatnonzero(weighty | (number % _SPARSE == 0))
        bands = [_linear(picture, start - PAD, stop + PAD) for picture in (x, y)]
        for band, half in zip(bands, halves, strict=True):
            half[:, start // 2 : -(-stop // 2)] = halved(band[:, PAD:-PAD])
        if not len(channels):
            continue
        for kind, values in enumerate(_maps(bands[0], bands[1], channels)):
            flat = values.reshape(len(channels), -1)
            sums[channels, 0, kind] += flat.sum(1)
            flat *= flat
            sums[channels, 1, kind] += np.einsum("ij,ij->i", flat, flat)
        rows_seen[channels] += stop - start
    sums /= rows_seen[:, None, None] * width
    sums[:, 1] **= 0.25
    return sums.reshape(3, -1), halves


def _linear(picture: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Rows of a picture, uint8 sRGB or float32 linear (3, h, w), as linear ones; beyond its ends mirrored."""
    height = picture.shape[1]
    band = picture[:, max(start, 0) : min(stop, height)]
    if start < 0 or stop > height:
        rows = np.arange(start, stop)
        band = picture[:, np.where(rows < 0, -1 - rows, np.where(rows < height, rows, 2 * height - 1 - rows))]
    return band if band.dtype == np.float32 else np.take(LINEAR, band, mode="clip")


def _padded_xyb(linear: np.ndarray, channels: np.ndarray, padded: np.ndarray) -> None:
    """Linear RGB float32 (3, rows, w) -> the channels asked for of X, Y, B into the middle of (n, rows, w + 2 * PAD)."""
    used = used_cones(channels)
    xyb = XYB[channels[:, None], used] @ cone_roots(linear, used)
    np.add(xyb.reshape(-1, *linear.shape[1:]), OFFSETS[channels], out=padded[:, :, PAD:-PAD])


def used_cones(channels: np.ndarray) -> np.ndarray:
    """Those of long, middle, short, by number, that the channels asked for of X, Y, B are made of."""
    return np.flatnonzero(XYB[channels].any(0))


def cone_roots(linear: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Linear RGB float32 (3, rows, w) -> cube roots of the cones asked for, (n, rows * w)."""
    cones: np.ndarray = matrix_product(CONES[used], linear.reshape(3, -1))
    cones += np.float32(BIAS)
    np.cbrt(cones, out=cones)
    return cones


def halved(linear: np.ndarray) -> np.ndarray:
    """Means of 2x2, fewer at the end of an odd side."""
    if linear.shape[1] % 2 or linear.shape[2] % 2:
        linear = np.pad(linear, ((0, 0), *((0, side % 2) for side in linear.shape[1:])), mode="edge")
    rows = linear[:, ::2] + linear[:, 1::2]
    means: np.ndarray = rows[:, :, ::2] + rows[:, :, 1::2]
    means *= np.float32(0.25)
    return means


def add_halves(fine: np.ndarray, coarse: np.ndarray) -> None:
    """The transpose of halved(): adds to a derivative by the picture what comes from that by its half, which is overwritten."""
    _, height, width = fine.shape
    coarse *= np.float32(0.25)
    if height % 2:  # the last means are of fewer
        coarse[:, -1] *= 2
    if width % 2:
        coarse[:, :, -1] *= 2
    wide = np.repeat(coarse, 2, axis=2)[:, :, :width]
    fine[:, ::2] += wide
    fine[:, 1::2] += wide[:, : height // 2]


def _maps(x: np.ndarray, y: np.ndarray, channels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two bands of linear RGB (3, rows + 2 * PAD, w) -> errors, edges gained and edges lost, (channels, rows, w) each.

    In place, as passes over memory are dear, and all means at once: of x and of y - x, which is 0 where they are equal.
    """
    stacked = np.zeros((4, len(channels), x.shape[1], x.shape[2] + 2 * PAD), np.float32)
    x_xyb, apart, energies, differences = stacked
    y_xyb = np.zeros_like(x_xyb)
    _padded_xyb(x, channels, x_xyb)
    _padded_xyb(y, channels, y_xyb)
    np.subtract(y_xyb, x_xyb, out=apart)
    np.multiply(apart, apart, out=differences)
    np.multiply(x_xyb, x_xyb, out=energies)
    energies += y_xyb * y_xyb
    means = gaussian_means(stacked.reshape(-1, *stacked.shape[2:])).reshape(4, len(channels), -1, x.shape[2])
    mean_x, mean_y, variances, structure = means
    shift = mean_y * mean_y
    mean_y += mean_x
    variances -= mean_x * mean_x
    variances -= mean_y * mean_y
    variances += C2
    structure -= shift
    structure /= variances
    error = np.add(structure, shift, out=variances)  # 1 - (1 - structure) * (1 - shift)
    structure *= shift
    error -= structure
    np.maximum(error, 0, out=error)
    edges, other_edges = _edges(x_xyb, mean_x), _edges(y_xyb, mean_y)
    other_edges /= edges
    other_edges -= 1
    gained = np.maximum(other_edges, 0, out=shift)
    return error, gained, np.subtract(gained, other_edges, out=other_edges)


def _edges(padded: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """1 + how far values are from their mean, which is overwritten."""
    mean -= padded[:, PAD:-PAD, PAD:-PAD]
    np.abs(mean, out=mean)
    mean += 1
    return mean
