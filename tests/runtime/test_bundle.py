# SPDX-License-Identifier: MIT
"""Bundles: whole or refused, and named by everything that decides how a file decodes."""

import io
import json
from typing import Any

import numpy as np
import pytest

from fewbits.codec import Model, load_model
from fewbits.errors import ModelError
from fewbits.runtime.bundle import TABLES, pack_bundle, parse_bundle
from fewbits.runtime.engines import Network, onnxruntime_engine
from fewbits.runtime.manifest import MANIFEST, manifest_id, model_id, parse_manifest

CODING = {"kind": "hyperprior", "halo": 3}


def tables(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def bundle(card: dict[str, Any] | None = None, **files: bytes) -> dict[str, bytes]:
    return pack_bundle("few", CODING, card or {}, {TABLES: tables(gain=np.arange(6.0)), "means.onnx": b"network"} | files)


def test_parse_undoes_pack() -> None:
    parsed = parse_bundle(bundle({"steps": 7}), "here")
    assert (parsed.family, parsed.coding, parsed.card) == ("few", CODING, {"steps": 7})
    assert parsed.networks == {"means": b"network"}
    assert np.array_equal(parsed.tables["gain"], np.arange(6.0))
    assert parsed.model_id == manifest_id(json.loads(bundle()[MANIFEST])) and len(parsed.model_id) == 8


def test_the_model_id_is_pinned() -> None:
    """docs/bundle.md: the first 8 bytes of the SHA-256 of sorted JSON without spaces."""
    assert model_id("few", {"b": 1, "a": [2]}, {"x.onnx": "00"}).hex() == "2d2f58e730633888"


def test_the_model_id_names_all_that_decides_and_nothing_else() -> None:
    def named(files: dict[str, bytes], family: str = "few", coding: dict[str, Any] = CODING, card: Any = None) -> bytes:
        return manifest_id(json.loads(pack_bundle(family, coding, card or {}, files)[MANIFEST]))

    plain = named({"a.onnx": b"1"})
    assert named({"a.onnx": b"1"}, card={"licence": "MIT"}) == plain
    changed = [
        named({"a.onnx": b"2"}),
        named({"b.onnx": b"1"}),
        named({"a.onnx": b"1", "b.onnx": b"2"}),
        named({"a.onnx": b"1"}, family="other"),
        named({"a.onnx": b"1"}, coding={**CODING, "halo": 4}),
    ]
    assert len({plain, *changed}) == 1 + len(changed)


def test_missing_and_damaged_files_are_named() -> None:
    files = bundle()
    with pytest.raises(ModelError, match="here: no manifest.json"):
        parse_bundle({}, "here")
    for name in (TABLES, "means.onnx"):
        with pytest.raises(ModelError, match=f"here: {name} is missing"):
            parse_bundle({key: data for key, data in files.items() if key != name}, "here")
        with pytest.raises(ModelError, match=f"here: {name} is damaged"):
            parse_bundle(files | {name: files[name][:-1] + b"?"}, "here")


def test_files_that_the_manifest_does_not_name_are_ignored() -> None:
    parsed = parse_bundle(bundle() | {"readme.txt": b"hello", "other.onnx": b"network"}, "here")
    assert parsed.networks == {"means": b"network"}


GOOD = json.loads(bundle()[MANIFEST])
BAD_MANIFESTS = {
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "a list": b"[]",
    "a number": b"3",
    "nothing": b"",
    "too deep": b"[" * 200_000,
    **{f"no {field}": json.dumps({k: v for k, v in GOOD.items() if k != field}).encode() for field in GOOD},
    "other version": json.dumps(GOOD | {"bundle": 3}).encode(),
    **{
        f"{field} is {value!r}": json.dumps(GOOD | {field: value}).encode()
        for field in ("family", "coding", "files", "card", "variants", "ranges")
        for value in (None, 3, ["a"])
    },
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_a_damaged_manifest_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="here"):
        parse_bundle(bundle() | {MANIFEST: BAD_MANIFESTS[name]}, "here")
    with pytest.raises(ModelError, match="here"):
        parse_manifest(BAD_MANIFESTS[name], "here")


@pytest.mark.parametrize("limits", [None, 1.5, "1", ["a"], [[1.0]], {"a": 1}])
def test_ranges_that_are_no_list_of_numbers_are_refused(limits: Any) -> None:
    with pytest.raises(ModelError, match=r"here: ranges in manifest.json must be lists of numbers: "):
        parse_bundle(bundle() | {MANIFEST: json.dumps(GOOD | {"ranges": {"synthesis": limits}}).encode()}, "here")


def test_ranges_come_back_and_are_no_part_of_the_models_id() -> None:
    files = pack_bundle("few", CODING, {}, {TABLES: tables(gain=np.arange(6.0))}, {}, {"synthesis": np.array([1.23456, 7e-9])})
    parsed = parse_bundle(files, "here")
    assert np.array_equal(parsed.ranges["synthesis"], np.array([1.235, 7e-9], np.float32))
    assert parsed.model_id == parse_bundle(pack_bundle("few", CODING, {}, {TABLES: files[TABLES]}), "here").model_id


def test_four_digits_of_a_range_are_never_less_and_stay_as_they_are() -> None:
    limits = np.concatenate([np.random.default_rng(0).lognormal(0, 3, 1000), [1.0004, 9.9999, 0]]).astype(np.float32)

    def kept_of(limits: np.ndarray) -> np.ndarray:
        files = pack_bundle("few", CODING, {}, {TABLES: tables(gain=np.arange(6.0))}, {}, {"synthesis": limits})
        return parse_bundle(files, "here").ranges["synthesis"]

    kept = kept_of(limits)
    assert (kept >= limits).all() and (kept <= 1.001 * limits).all() and (kept != limits).any()
    assert np.array_equal(kept_of(kept), kept)


BESIDE = {"synthesis.int8.onnx": b"1", "synthesis.gradient.onnx": b"2", "scales.integer.onnx": b"3"}


def with_variants(*variants: str) -> dict[str, bytes]:
    networks = {f"{name}.onnx": name.encode() for name in ("means", "scales", "synthesis")}
    files = {TABLES: tables(gain=np.arange(6.0)), **networks}
    return pack_bundle("few", CODING, {}, files, {name: BESIDE.get(name, b"?") for name in variants})


def test_variants_come_back_and_are_no_part_of_the_models_id() -> None:
    parsed, plain = parse_bundle(with_variants(*BESIDE), "here"), parse_bundle(with_variants(), "here")
    assert (parsed.variants, parsed.gradient, parsed.integer_scales) == ({"int8": {"synthesis": b"1"}}, b"2", b"3")
    assert (plain.variants, plain.gradient, plain.integer_scales) == ({}, b"", b"")
    assert parsed.networks == plain.networks and parsed.model_id == plain.model_id


@pytest.mark.parametrize(
    "wrong",
    [
        "synthesis.integer.onnx",
        "means.integer.onnx",
        "other.integer.onnx",
        "integer.onnx",
        ".integer.onnx",
        "scales.int8.onnx",
        "scales.gradient.onnx",
        "scales.whole.onnx",
    ],
)
def test_variants_of_other_networks_are_refused(wrong: str) -> None:
    with pytest.raises(ModelError, match=f"^here: {wrong} in manifest.json is no variant of a network of this bundle"):
        parse_bundle(with_variants(*BESIDE, wrong), "here")


def test_a_variant_of_a_network_that_is_not_there_is_refused() -> None:
    files = pack_bundle("few", CODING, {}, {TABLES: tables(gain=np.arange(6.0))}, {"scales.integer.onnx": b"3"})
    with pytest.raises(ModelError, match="scales.integer.onnx in manifest.json is no variant"):
        parse_bundle(files, "here")


def test_tables_are_never_unpickled() -> None:
    with pytest.raises(ModelError, match="tables.npz cannot be read"):
        parse_bundle(bundle(**{TABLES: tables(evil=np.array([{"a": 1}], object))}), "here")


def test_damaged_tables_with_a_right_hash_are_refused_or_read() -> None:
    """A hash protects from damage, not from an author: whatever np.load raises is a ModelError."""
    rng = np.random.default_rng(3)
    good = tables(gain=np.arange(60.0), bias=np.arange(5))
    for _ in range(300):
        data = bytearray(good)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        cut = len(data) if rng.random() < 0.7 else int(rng.integers(len(data)))
        try:
            parsed = parse_bundle(bundle(**{TABLES: bytes(data[:cut])}), "here")
        except ModelError:
            continue
        assert all(isinstance(array, np.ndarray) for array in parsed.tables.values())


def shipped_files(model: Model, **changes: Any) -> dict[str, bytes]:
    """The shipped bundle with other tables, coding or networks, packed anew."""
    source = model.bundle
    arrays = dict(source.tables) | changes.get("tables", {})
    kept = {name: array for name, array in arrays.items() if name not in changes.get("without", ())}
    networks = {f"{name}.onnx": data for name, data in (dict(source.networks) | changes.get("networks", {})).items()}
    coding = changes.get("coding", source.coding)
    return pack_bundle(changes.get("family", source.family), coding, {}, {**networks, TABLES: tables(**kept)})


def test_a_bundle_of_another_kind_or_family_is_refused(model: Model) -> None:
    with pytest.raises(ModelError, match="kind other"):
        Model(shipped_files(model, coding={**model.bundle.coding, "kind": "other"}), "here")
    with pytest.raises(ModelError, match="family many"):
        Model(shipped_files(model, family="many"), "here")


def test_every_table_coding_number_and_network_is_needed(model: Model) -> None:
    """A bundle without one of its parts is a ModelError, when it is loaded or when it is used."""

    def use(**changes: Any) -> None:
        other = Model(shipped_files(model, **changes), "here")
        other.decode(other.encode(np.zeros((20, 20, 3), np.uint8)))

    use()
    for name in model.bundle.tables:
        with pytest.raises(ModelError, match=name):
            use(without=(name,))
    for name in model.bundle.coding.keys() - {"order", "places", "runs_below"}:  # what is older has none
        with pytest.raises(ModelError, match=name if name != "kind" else "kind None"):
            use(coding={key: value for key, value in model.bundle.coding.items() if key != name})


@pytest.mark.parametrize("wrong", ["sum", "zero", "size", "shape"])
def test_frequencies_that_are_no_table_are_refused_when_a_bundle_is_loaded(model: Model, wrong: str) -> None:
    """Those of every level, though only the levels that are asked for become tables."""
    good = model.bundle.tables["z_frequencies"]
    bad = good.astype(np.int64)
    if wrong == "sum":
        bad[-1, -1, 0] += 1
    elif wrong == "zero":
        bad[-1, -1, 0], bad[-1, -1, 1] = 0, bad[-1, -1, :2].sum()
    elif wrong == "size":
        bad = np.concatenate([bad, np.ones_like(bad[:, :, :1])], 2)
        bad[:, :, 0] -= 1
    else:
        bad = bad[0]
    Model(shipped_files(model, tables={"z_frequencies": good.astype(np.int64)}), "here")
    with pytest.raises(ModelError, match="is missing or wrong in the bundle"):
        Model(shipped_files(model, tables={"z_frequencies": bad}), "here")


def test_tables_of_another_shape_or_type_are_refused_before_they_are_used(model: Model) -> None:
    source = model.bundle.tables
    for name, bad in {
        "gain": source["gain"][..., None],
        "inverse_gain": source["inverse_gain"][:, :10],
        "bias_out": source["bias_out"][:, :10],
        "hyper_scale": source["hyper_scale"].astype(str),
        "deviation": source["deviation"][:0],
    }.items():
        with pytest.raises(ModelError, match=f"the shape.* of table {name} is missing or wrong"):
            Model(shipped_files(model, tables={name: bad}), "here")
    wide = {"z_frequencies": np.repeat(source["z_frequencies"], 2, 1)}
    with pytest.raises(ModelError, match="network hyper_analysis gives 64 channels, by the bundle's tables it must be 128"):
        Model(shipped_files(model, tables=wide), "here").encode(np.zeros((20, 20, 3), np.uint8))


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    "made",
    [
        np.zeros((32, 32, 3), np.uint16),
        np.zeros((32, 32, 3), np.float64),
        np.zeros((32, 16, 3), np.float32),
        np.zeros((1, 2, 32, 32), np.float32),
        np.zeros((32, 32), np.float32),
        np.zeros((32, 32, 3), "U1"),
    ],
    ids=lambda made: f"{made.dtype.name} {made.shape}",
)
def test_pixels_of_another_size_or_type_are_a_model_error(model: Model, made: np.ndarray, deep: bool) -> None:
    load = onnxruntime_engine(1)

    def engine(data: bytes) -> Network:
        return (lambda output="", /, **inputs: made) if data == model.bundle.networks["synthesis"] else load(data)

    other = Model(shipped_files(model), "here", engine)
    file = other.encode(np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(ModelError, match=r"network synthesis gives .*, it must be float32 \(3, 32, 32\)"):
        other.decode_picture(file, depth=16 if deep else 8)


@pytest.mark.parametrize("data", [b"", b"no network", bytes(100)], ids=["empty", "text", "zeros"])
def test_a_network_that_cannot_be_run_is_a_model_error(model: Model, data: bytes) -> None:
    with pytest.raises(ModelError, match="analysis"):
        Model(shipped_files(model, networks={"analysis": data}), "here").encode(np.zeros((20, 20, 3), np.uint8))


def test_unknown_models_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match="model nosuch is neither a bundle's folder nor an installed model .*few"):
        load_model("nosuch")
