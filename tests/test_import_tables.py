"""Official distributions become the open table format; nothing in them is run, and what is wrong is one line."""

import bz2
import functools
import io
import json
import os
import pickle  # noqa: TID251 - writes what the reader is to take or refuse
import subprocess
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from nas.commands.cli import main
from nas.errors import UsageError
from nas.npz import open_arrays
from nas.tables import natsbench, read_table, write_table
from nas.unpickle import TORCH_MAGIC, load
from spaces.base import every
from spaces.nasbench201 import NasBench201

SPACE = NasBench201()
CELLS = every(SPACE)
assert CELLS is not None
NAMES = [SPACE.describe(row) for row in CELLS]
RUNS = {"cifar10-valid": ("x-valid", "ori-test"), "cifar10": ("ori-test",)}
RUNS |= dict.fromkeys(("cifar100", "ImageNet16-120"), ("x-valid", "x-test", "ori-test"))


@functools.cache
def times(epochs: int, parts: tuple[str, ...]) -> tuple[dict, dict]:
    train = OrderedDict((epoch, 10.0) for epoch in range(epochs))
    return train, {f"{part}@{epoch}": 2.0 for part in parts for epoch in range(epochs)}


def trial(run: str, epochs: int, seed: int, accuracy: float, params: float = 0.5) -> dict:
    """The state of an official `ResultsCount`, without what is not read."""
    train, passes = times(epochs, RUNS[run])
    return {
        "name": run,
        "eval_acc1es": {f"{part}@{epochs - 1}": accuracy + k for k, part in enumerate(RUNS[run])},
        "train_times": train,
        "eval_times": passes,
        "params": params,
        "flop": 2 * params,
        "latency": [0.004],
        "seed": seed,
        "epochs": epochs,
        "net_state_dict": None,
    }


def results(i: int, epochs: int, seeds: tuple[int, ...] = (777,), base: float | None = None) -> dict:
    """The state of an official `ArchResults`: the seeds differ by 2 points of accuracy, the runs by 10."""
    base = 100 * i / 2**15 if base is None else base
    trials = {
        (run, seed): trial(run, epochs, seed, base + 10 * r + 2 * s)
        for r, run in enumerate(RUNS)
        for s, seed in enumerate(seeds)
    }
    names = {run: list(seeds) for run in RUNS}
    return {"arch_index": i, "arch_str": NAMES[i], "all_results": trials, "dataset_seed": names}


@pytest.fixture(scope="module")
def distribution() -> dict:
    """Every architecture, trained for 12 epochs, and the first ten for 200 too."""
    infos = {i: {"12": results(i, 12)} for i in range(len(NAMES))}
    for i in range(10):
        infos[i]["200"] = results(i, 200, (777, 888, 999))
    return {"meta_archs": NAMES, "total_archs": len(NAMES), "arch2infos": infos, "evaluated_indexes": set(infos)}


@pytest.fixture(scope="module")
def imported(distribution, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    dump(folder / "NATS-tss.pickle", distribution)
    assert main(["table", "import", "nats-bench", str(folder / "NATS-tss.pickle"), "--out", str(folder / "t.npz")]) == 0
    return folder / "t.npz"


def dump(path: Path, value: object, protocol: int = 4) -> Path:
    data = pickle.dumps(value, protocol)
    path.write_bytes(bz2.compress(data, 1) if path.suffix == ".pbz2" else data)
    return path


def complaint(call, *arguments) -> str:
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


# Distributions


def test_a_distribution_becomes_a_table(imported):
    table = read_table(str(imported))
    assert (table.space_name, table.source) == ("nasbench201", natsbench.SOURCES["nats-bench"])
    assert table.columns == natsbench.COLUMNS
    i = 4321
    base = 100 * i / 2**15
    expected = {  # the runs are in the order of RUNS, and each part has one point more than the one before
        "cifar10_valid_error_e12": 1 - base / 100,
        "cifar10_test_error_e12": 0.9 - base / 100,
        "cifar100_valid_error_e12": 0.8 - base / 100,
        "cifar100_test_error_e12": 0.79 - base / 100,
        "imagenet16_120_valid_error_e12": 0.7 - base / 100,
        "imagenet16_120_test_error_e12": 0.69 - base / 100,
        "cifar10_seconds_e12": 122.0,  # twelve epochs and one pass
        "cifar10_latency_ms": 4.0,
        "params": 5e5,
        "macs": 1e6,
    }
    assert {name: float(table.column(name)[i]) for name in expected} == pytest.approx(expected, rel=1e-5)
    # The first ten have three seeds after 200 epochs: 0, 2 and 4 points of accuracy more.
    assert table.values["cifar10_valid_error_e200"][0] == pytest.approx(0.98)
    assert table.values["cifar10_seconds_e200"][0] == pytest.approx(2002)


def test_a_column_with_gaps_is_kept_and_said_to_have_them(imported, capsys):
    table = read_table(str(imported))
    assert "'cifar10_valid_error_e200' has 15615 rows without a number" in complaint(
        table.error, "cifar10", "valid", 200
    )
    assert "did you mean" in complaint(table.column, "cifar10_valid_error_e21")
    assert main(["table", "show", str(imported), "--format", "json"]) == 0
    shown = {row["column"]: row for row in json.loads(capsys.readouterr().out)}
    assert shown["cifar10_valid_error_e200"]["gaps"] == 15615
    assert (shown["params"]["kind"], shown["params"]["unit"], shown["params"]["gaps"]) == ("cost", "parameters", None)


def test_show_is_a_text_table(imported, capsys):
    assert main(["table", "show", str(imported)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["column", "kind", "unit", "dataset", "split", "epochs", "gaps"]
    assert "cifar100_test_error_e12 error share cifar100 test 12 -" in [" ".join(line.split()) for line in lines]


def write_folder(folder: Path, infos: dict[int, dict], usual: bool = True) -> str:
    folder.mkdir()
    dump(folder / "meta.pickle.pbz2", {"meta_archs": [NAMES[i] for i in infos], "arch2infos": None})
    for k, info in enumerate(infos.values()):
        dump(folder / (f"{k:06d}.pickle.pbz2" if usual else f"{k}.pickle.pbz2"), info)
    return str(folder)


@pytest.mark.parametrize("usual", [True, False])
def test_a_folder_is_read_a_file_at_a_time_in_its_own_order(tmp_path, usual):
    infos = {i: {"12": results(i, 12), "200": results(i, 200, (777, 888))} for i in (70, 3, 12)}
    path = write_folder(tmp_path / "simple", infos, usual)
    found = list(natsbench.records(path))
    assert [name for name, _ in found] == [NAMES[i] for i in (70, 3, 12)]
    assert [sorted(each) for _, each in found] == [[12, 200]] * 3
    assert found[1][1][200] == infos[3]["200"]


def test_less_and_full_of_the_older_file_are_12_and_200_epochs(tmp_path):
    data = {"meta_archs": NAMES[:1], "arch2infos": {0: {"less": results(0, 12), "full": results(0, 200)}}}
    pth = tmp_path / "NAS-Bench-201.pth"
    pth.write_bytes(legacy_torch(pickle.dumps(data, 2)))
    ((name, found),) = natsbench.records(str(pth))
    assert (name, sorted(found)) == (NAMES[0], [12, 200])
    assert natsbench.measurements(found)["cifar10_seconds_e200"] == 2002


def test_costs_that_differ_between_seeds_are_those_of_the_trusted_one():
    state = results(0, 200, (777, 888))
    for (_, seed), each in state["all_results"].items():
        each["params"] = {777: 0.3, 888: 0.4}[seed]
    assert natsbench.measurements({200: state})["params"] == pytest.approx(4e5)
    state = results(0, 12, (111, 777))
    state["all_results"]["cifar10", 111]["params"] = 0.3
    assert np.isnan(natsbench.measurements({12: state})["params"])


def test_what_was_not_measured_is_no_number():
    state = results(0, 12)
    for each in state["all_results"].values():
        each |= {"latency": None, "eval_times": {}, "train_times": None}
    state["dataset_seed"].pop("cifar100")
    found = natsbench.measurements({12: state})
    assert {name for name, number in found.items() if not np.isnan(number)} == {
        *("params", "macs", "cifar10_valid_error_e12", "cifar10_test_error_e12"),
        *("imagenet16_120_valid_error_e12", "imagenet16_120_test_error_e12"),
    }


def tabulated(found):
    return natsbench.tabulate("x", "me", found)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([(NAMES[7], {12: results(7, 12)})] * 2, "encodings[0] and encodings[1] are the same architecture"),
        ([(NAMES[0], {12: results(0, 12)})], "lacks 15624 architectures of the space, such as [0, 0, 0, 0, 0, 1]"),
        ([], "lacks 15625 architectures"),
        ([("8:8:8:8:8", {})], "architecture 0 is damaged: '8:8:8:8:8' is not a cell such as"),
        ([(NAMES[0], {12: {"dataset_seed": {"cifar10": [1]}}})], "architecture 0 is damaged: it has no 'all_results'"),
        ([(NAMES[0], {12: {"dataset_seed": 3}})], "architecture 0 is damaged: 'int' object has no attribute"),
    ],
)
def test_rows_that_are_not_the_space_are_named(rows, said):
    assert said in complaint(tabulated, rows)


def test_a_distribution_with_errors_outside_of_0_to_1_is_refused():
    rows = [(name, {12: results(i, 12, base=99.0 if i == 9 else 0.0)}) for i, name in enumerate(NAMES)]
    assert "column 'cifar10_test_error_e12' must hold errors" in complaint(tabulated, rows)


def test_what_is_not_a_distribution_is_named(tmp_path):
    infos = {i: {"12": results(i, 12)} for i in (0, 1)}
    folder = write_folder(tmp_path / "simple", infos)
    dump(Path(folder) / "000001.pickle.pbz2", infos[0])
    assert f"the results of {NAMES[1]!r} are those of {NAMES[0]!r}" in complaint(list, natsbench.records(folder))
    dump(Path(folder) / "000001.pickle.pbz2", {"01": 3})
    assert "000001.pickle.pbz2' has no results" in complaint(list, natsbench.records(folder))
    (Path(folder) / "000001.pickle.pbz2").unlink()
    assert "lacks 1 of its 2 files, such as 000001.pickle.pbz2" in complaint(list, natsbench.records(folder))
    (Path(folder) / "meta.pickle.pbz2").unlink()
    assert "meta.pickle.pbz2' cannot be read: No such file" in complaint(list, natsbench.records(folder))
    for value, said in (([1], "no list 'meta_archs'"), ({"meta_archs": NAMES[:2]}, "no 'arch2infos'")):
        path = str(dump(tmp_path / "one.pickle", value))
        assert said in complaint(list, natsbench.records(path))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("import nats-bensh PATH --out t.npz", "kind='nats-bensh' is not one of nas-bench-201, nats-bench; did you"),
        ("import nats-bench none --out t.npz", "path='none' does not exist"),
        ("import nats-bench PATH --out none/t.npz", "'none' is not a folder"),
        ("import nats-bench PATH", "--out"),
        ("import", "KIND"),
        ("imprt", "invalid choice"),
        ("", "COMMAND"),
        ("show PATH", "cannot be read: File is not a zip file"),
        ("show PATH --format xml", "format='xml' is not one of"),
    ],
)
def test_a_wrong_command_is_one_line(tmp_path, capsys, words, said):
    path = dump(tmp_path / "one.pickle", [1])
    assert main(["table", *(str(path) if word == "PATH" else word for word in words.split())]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


# The open format


def test_a_table_is_the_same_when_it_is_written_and_read(imported, tmp_path):
    table = read_table(str(imported))
    write_table(tmp_path / "again.npz", table)
    again = read_table(str(tmp_path / "again.npz"))
    assert (again.columns, again.source, again.fingerprint()) == (table.columns, table.source, table.fingerprint())
    for name, values in table.values.items():
        np.testing.assert_array_equal(again.values[name], values)


def test_rows_come_in_the_order_of_indices_whatever_the_files(imported, tmp_path):
    arrays = {name: np.array(values) for name, values in open_arrays("table", imported, 2**34, mapped=True).items()}
    shuffle = np.random.default_rng(0).permutation(len(NAMES))
    rows = {name: values if name == "header" else values[shuffle] for name, values in arrays.items()}
    np.savez(tmp_path / "shuffled.npz", **rows)  # pyright: ignore[reportArgumentType]
    shuffled = read_table(str(tmp_path / "shuffled.npz"))
    assert shuffled.fingerprint() == read_table(str(imported)).fingerprint()


def test_a_table_is_mapped_into_memory_and_opens_at_once(imported):
    started = time.perf_counter()
    read_table(str(imported))
    assert time.perf_counter() - started < 0.5
    for name, values in open_arrays("table", imported, 2**34, mapped=True).items():
        assert isinstance(values, np.memmap), name


def change(imported: Path, tmp_path: Path, **changes) -> str:
    arrays = {name: np.array(values) for name, values in open_arrays("table", imported, 2**34, mapped=True).items()}
    arrays = {name: values for name, values in (arrays | changes).items() if values is not None}
    path = tmp_path / "changed.npz"
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    return str(path)


def header(**changes) -> np.ndarray:
    fields = {"format": 1, "space": "nasbench201", "source": "me", "columns": {}}
    return np.frombuffer(json.dumps(fields | changes).encode(), np.uint8)


def encodings(row: int, value) -> np.ndarray:
    rows = np.array(CELLS)
    rows[row] = value
    return rows


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encodings": encodings(5, [0, 0, 0, 0, 0, 5])}, "encodings[5]=[0, 0, 0, 0, 0, 5] is not in the space"),
        ({"encodings": encodings(5, -1)}, "encodings[5]=[-1, -1, -1, -1, -1, -1] is not in the space"),
        ({"encodings": encodings(5, CELLS[9])}, "encodings[5] and encodings[9] are the same architecture"),
        ({"encodings": CELLS[:-2]}, "lacks 2 architectures of the space, such as [4, 4, 4, 4, 4, 3]"),
        ({"encodings": CELLS[:, :5]}, "must be integers [n, 6]"),
        ({"encodings": CELLS.astype(np.float32)}, "must be integers [n, 6]"),
        ({"params": np.array([{}] * 3)}, "params.npy holds pickled objects, which are not read"),
        ({"params": None}, "has no member for its column 'params'"),
        ({"params": np.zeros(3, np.float32)}, "column 'params'=[3] must be [15625]"),
        *(
            ({"cifar10_seconds_e12": np.full(15625, seconds)}, "'cifar10_seconds_e12' must hold times above 0")
            for seconds in (0.0, -1.0, np.inf)
        ),
        ({"cifar10_valid_error_e12": np.full(15625, 1.5)}, "'cifar10_valid_error_e12' must hold errors"),
        ({"header": None}, "is not a table"),
        ({"header": np.frombuffer(b"{", np.uint8)}, "header that is damaged"),
        ({"header": header(format=2)}, "is of format 2; allowed: 1"),
        ({"header": header(space="nasbench20")}, "did you mean 'nasbench201'?"),
        ({"header": header(columns={"x": {"kind": "cost", "price": 3}})}, "header that is damaged"),
        *(
            (
                {"header": header(columns={"params": {"kind": "cost", "unit": "", **odd}})},
                "header that is damaged: column",
            )
            for odd in (
                {"kind": "foo"},
                {"kind": ["cost"]},
                {"split": "x"},
                {"epochs": "3"},
                {"unit": 3},
                {"dataset": [3]},
            )
        ),
        ({"header": header(columns={})}, "has no columns"),
        ({"header": header(source={})}, "its source is no text"),
        ({"header": np.frombuffer(b"[" * 90_000, np.uint8)}, "it has more than 100 levels of lists and mappings"),
        (
            {"header": header(space="darts"), "encodings": np.zeros((1, 22), np.uint8)},
            "has 1 rows, where the space has",
        ),
        ({"encodings": np.zeros((40_000, 6), np.uint8)}, "has 40000 rows, where the space has 15625 architectures"),
    ],
)
@pytest.mark.usefixtures("unchecked")  # what a file says may be of any type
def test_a_damaged_table_is_one_line(imported, tmp_path, changes, said):
    assert said in complaint(read_table, change(imported, tmp_path, **changes))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_table_that_is_cut_short_is_one_line(imported, tmp_path, share):
    data = imported.read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: int(share * len(data))])
    assert "cannot be read" in complaint(read_table, str(tmp_path / "cut.npz"))


def zipped(path: Path, member: bytes, **options) -> str:
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("encodings.npy", member)
        archive.writestr("header.npy", member)
    return str(path)


def npy(text: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


@pytest.mark.parametrize(
    "member",
    [
        npy("{'descr': '<f4', (((\n"),
        npy("{'descr':" + "-" * 9000),
        npy("{'descr': '<f4', 'fortran_order': False}\n"),
        b"",
    ],
)
def test_members_that_are_no_arrays_are_one_line(tmp_path, member):
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        assert "cannot be read" in complaint(read_table, zipped(tmp_path / "x.npz", member, compression=how))


def test_a_member_takes_no_more_memory_than_it_has_bytes(tmp_path):
    text = "{'descr': '|u1', 'fortran_order': False, 'shape': (4000000000000, 6)}\n"
    path = zipped(tmp_path / "x.npz", npy(text, b"1"), compression=zipfile.ZIP_DEFLATED)
    assert "is cut short" in complaint(read_table, path)
    zeros = zipped(tmp_path / "y.npz", npy("{}\n") + bytes(300 * 2**20), compression=zipfile.ZIP_DEFLATED)
    assert "allowed: 200 times as many" in complaint(read_table, zeros)


# Pickles

PLAIN = {
    "numbers": [1, -2.5, 2**70, True, None, float("inf")],
    "texts": ("a", "ü", b"\x00\xff", b""),
    "containers": OrderedDict([(("cifar10", 777), {1, 2}), ("empty", frozenset())]),
    "scalars": [np.float64(0.129306), np.int32(-3), np.bool_(True), np.float32(1.5)],
}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_is_read_as_it_was_written(tmp_path, protocol):
    found = load(dump(tmp_path / "plain.pickle", PLAIN, protocol))
    assert found == PLAIN
    assert [type(each) for each in found["scalars"]] == [type(each) for each in PLAIN["scalars"]]
    assert load(dump(tmp_path / "plain.pickle.pbz2", PLAIN, protocol)) == PLAIN


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("dtype", ["<f8", ">f4", "u1", "?", "<i8"])
def test_arrays_of_numbers_are_read_as_they_were_written(tmp_path, protocol, dtype):
    for array in (np.arange(6).reshape(2, 3).astype(dtype), np.asfortranarray(np.eye(3, dtype=dtype))):
        found = load(dump(tmp_path / "array.pickle", [array, array], protocol))[0]
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype.newbyteorder("=")


class Calls:
    """Is written as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def by_name(module: str, name: str, *arguments: bytes) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n(" + b"".join(arguments) + b"tR"


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_no_function_is_called(tmp_path, protocol):
    marker = tmp_path / "ran"
    for k, call in enumerate(
        [
            Calls(os.system, f"touch {marker}"),
            Calls(eval, f"open({str(marker)!r}, 'w')"),
            Calls(exec, f"open({str(marker)!r}, 'w')"),
            Calls(subprocess.check_call, ["touch", str(marker)]),
            Calls(Path.touch, marker),
            Calls(getattr, Calls(__import__, "os"), "system"),
            OrderedDict(a=[{"b": (Calls(os.system, f"touch {marker}"),)}]),
            Calls(functools.partial, os.system),
        ]
    ):
        path = dump(tmp_path / f"{k}.pickle.pbz2", [call], protocol)
        assert "which is not plain data; nothing of it is run" in complaint(load, path)
    assert not marker.exists()


def test_numpy_names_that_are_not_needed_are_refused(tmp_path):
    for name in ("numpy.load", "numpy.core.multiarray.fromfile", "numpy.testing._private.utils.runstring"):
        module, _, function = name.rpartition(".")
        (tmp_path / "x.pickle").write_bytes(by_name(module, function, text("x")) + b".")
        assert f"names {name!r}" in complaint(load, tmp_path / "x.pickle")


@pytest.mark.parametrize("name", [b"nix\nsystem", b"posix\nsystem", b"builtins\neval", b"os\nsystem"])
@pytest.mark.parametrize("instruction", [b"(X\x04\x00\x00\x00truei%s\n", b"c%s\n(X\x04\x00\x00\x00truetR"])
def test_other_instructions_that_call_are_refused(tmp_path, name, instruction):
    (tmp_path / "x.pickle").write_bytes(b"\x80\x02" + instruction % name + b".")
    assert "nothing of it is run" in complaint(load, tmp_path / "x.pickle")


def test_an_object_outside_of_the_pickle_is_refused(tmp_path):
    (tmp_path / "x.pickle").write_bytes(b"\x80\x02" + text("storage") + b"Q.")
    assert "refers to an object outside of it" in complaint(load, tmp_path / "x.pickle")


@pytest.mark.parametrize(
    "data",
    [
        np.array([{}, []], object),
        np.array(["a"]),
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros(2, [("a", "f8")]),
        np.float64,
        slice(1),
        UsageError("x"),
    ],
)
def test_what_is_not_numbers_is_refused(tmp_path, data):
    said = complaint(load, dump(tmp_path / "x.pickle", data))
    assert "not one of numbers" in said or "not plain data" in said


def test_names_cannot_be_changed_by_a_pickle(tmp_path):
    scalar = b"cnumpy.core.multiarray\nscalar\n"
    for state in (b"}" + text("_call") + b"K\x01s", b"(N}" + text("_call") + b"K\x01st"):
        for target in (scalar, b"ccollections\nOrderedDict\n", b"c_codecs\nencode\n"):
            (tmp_path / "x.pickle").write_bytes(b"\x80\x02" + target + state + b"b.")
            assert "cannot be read" in complaint(load, tmp_path / "x.pickle")
    assert load(dump(tmp_path / "y.pickle", np.float64(3))) == 3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a pickle",
        b"BZh91AY&SY damaged",
        bz2.compress(pickle.dumps(PLAIN))[:-20],
        pickle.dumps(PLAIN)[:-20],
        b"PK\3\4 damaged",
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",  # torch.save, and nothing after its number
        by_name("numpy.core.multiarray", "scalar", text("f8"), text("x")) + b".",
        by_name("_codecs", "encode", text("a"), text("rot13")) + b".",
        by_name("builtins", "set", b"K\x01") + b".",
    ],
)
def test_damaged_files_are_one_line(tmp_path, data):
    (tmp_path / "x.pickle").write_bytes(data)
    assert f"file={str(tmp_path / 'x.pickle')!r} cannot be read: " in complaint(load, tmp_path / "x.pickle")


def test_numbers_that_lie_about_their_size_are_refused(tmp_path):
    good = pickle.dumps(np.arange(4, dtype="<i8"), 4)
    assert good.count(b"K\x04\x85") == 1  # the shape (4,)
    (tmp_path / "x.pickle").write_bytes(good.replace(b"K\x04\x85", b"K\x09\x85"))
    assert "not as many numbers as its shape says" in complaint(load, tmp_path / "x.pickle")


# What torch.save writes


def legacy_torch(body: bytes) -> bytes:
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    start = b"".join(pickle.dumps(each, 2) for each in (TORCH_MAGIC, 1001, facts))
    return start + body + pickle.dumps([], 2)


def zipped_torch(body: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


TENSOR = by_name(
    "torch._utils",
    "_rebuild_tensor_v2",
    b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x01tQ",
    b"K\x00",
    b"(K\x01t(K\x01t\x89ccollections\nOrderedDict\n)R",
)


@pytest.mark.parametrize("container", [legacy_torch, zipped_torch])
def test_torch_containers_are_read_without_torch_and_without_tensors(tmp_path, container):
    path = tmp_path / "x.pth"
    path.write_bytes(container(pickle.dumps(PLAIN, 2)))
    assert load(path) == PLAIN
    path.write_bytes(container(b"\x80\x02}(" + text("w") + TENSOR + text("n") + b"K\x05u."))
    assert load(path) == {"w": None, "n": 5}
    for name in ("os.system", "torch.load", "torch.hub.load", "torch._utils._import_dotted_name"):
        module, _, function = name.rpartition(".")
        path.write_bytes(container(b"\x80\x02" + by_name(module, function, text("true")) + b"."))
        assert f"names {name!r}" in complaint(load, path)


def test_tensors_outside_of_a_torch_container_are_refused(tmp_path):
    (tmp_path / "x.pickle").write_bytes(b"\x80\x02" + TENSOR + b".")
    assert "not plain data" in complaint(load, tmp_path / "x.pickle")
