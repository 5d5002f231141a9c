"""Files that were written to do harm: each says what it is, and spoils a folder with a good sample in it."""

import bz2
import gzip
import io
import json
import os
import pickle  # noqa: TID251 - writes what the reader is to refuse
import sqlite3
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile.changes import without_checksum
from tests.hostile.samples import photo

Spoil = Callable[[Path], Any]
Case = tuple[str, Spoil]

CANARY = os.path.join(tempfile.gettempdir(), "hostile-canary")


class Calls:
    def __init__(self, function: Any, *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def put(name: str, data: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(data)


def pipe(name: str) -> Case:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return f"{name} is a pipe", spoil


def device(name: str) -> Case:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("/dev/zero")

    return f"{name} is /dev/zero", spoil


def sparse(name: str, start: bytes = b"", size: int = 8 * 2**30) -> Case:
    def spoil(folder: Path) -> None:
        with open(folder / name, "wb") as file:
            file.write(start)
            file.truncate(size)

    return f"{name} is {size >> 30} GiB of nothing", spoil


def folder_of(name: str) -> Case:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return f"{name} is a folder", spoil


def odd_files(name: str) -> list[Case]:
    return [pipe(name), device(name), sparse(name), folder_of(name), (f"{name} is empty", put(name, b""))]


# Pickles


def doubled() -> list[Any]:
    """A few bytes, of which a text would have an exabyte."""
    value: list[Any] = []
    for _ in range(60):
        value = [value, value]
    return value


def pickles() -> dict[str, bytes]:
    calls = [Calls(os.system, f"touch {CANARY}"), Calls(eval, f"open({CANARY!r}, 'w')"), Calls(open, CANARY, "w")]
    colliding = [b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(1, 40_000)]
    names = {"meta_archs": ["x"]}
    return {
        **{f"a call, {k}": pickle.dumps([call], 4) for k, call in enumerate(calls)},
        "a memo of gigabytes": b"\x80\2Nr\xff\xff\xff\x7f.",
        "tuples that double": b"\x80\2)" + b"2\x86" * 60 + b".",
        "a key of doubled tuples": b"\x80\4})" + b"2\x86" * 40 + b"K\1s.",
        "a set of doubled tuples": b"\x80\4\x8f()" + b"2\x86" * 40 + b"\x90.",
        "marks": b"(" * 10**6,
        "lists in lists": b"]" * 10**6 + b"a" * (10**6 - 1) + b".",
        "a text of exabytes": b"\x80\4\x8e" + b"\xff" * 6 + b"\0\0x.",
        "a frame of exabytes": b"\x80\4\x95" + b"\xff" * 6 + b"\0\0N.",
        "an array of bytes": b"\x80\5\x96\0\0\0\0\1\0\0\0.",
        "an integer of gigabytes": b"\x80\2\x8b\xff\xff\xff\x7f.",
        "numbers of one hash": b"\x80\4}(" + b"".join(colliding) + b"u.",
        "numbers of one hash, one by one": b"\x80\4}" + b"s".join(colliding) + b"s.",
        "sets": b"\x80\4" + b"\x8f" * 10**7,
        "an array of exabytes": b"\x80\2cnumpy.core.multiarray\n_reconstruct\n)R(K\1\x8a\7"
        + b"\xff" * 6
        + b"\0\x85NNNtb.",
        "a name that is no text": b"\x80\2}(X\x0a\0\0\0meta_archs](K\1euX\x0a\0\0\0arch2infos}u.",
        "texts of doubled lists": pickle.dumps({**names, "arch2infos": {0: {"12": {"arch_str": doubled()}}}}),
        "seeds of doubled lists": pickle.dumps({"meta_archs": [doubled()], "arch2infos": doubled()}),
    }


def of_pickles(name: str) -> list[Case]:
    found = [(what, put(name, data)) for what, data in pickles().items()]
    found += [(f"{what}, in bz2", put(name, bz2.compress(data, 1))) for what, data in list(pickles().items())[3:6]]
    bomb = bz2.compress(bytes(2**20), 9)  # one after another they are one stream
    return [*found, ("a bomb of bz2", put(name, bomb * 2000)), *odd_files(name)]


# Archives of arrays


def npy(header: str, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header.encode() + data


def zipped(members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def shape(text: str, descr: str = "|u1") -> bytes:
    return npy(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {text}}}\n", b"1")


def of_arrays(name: str, member: str) -> list[Case]:
    shapes = ("(4000000000000, 6)", "(0, 1" + "0" * 30 + ")", "(-1,)", "(" + "1, " * 70 + ")", "1", "(1.5,)", "(True,)")
    shapes += ("(" * 300 + ")" * 300, "(0, 9223372036854775807, 9)", "[3]", "None", "(2**62, 4)", "(0x10,)")
    types = (
        "|O",
        "<U99999999",
        "|V99999999999",
        "i4,i4",
        "<M8[D]",
        "{}",
        "x",
        "<c16",
        "(2,3)f4",
        ",".join(["u1"] * 2000),
    )
    files = {f"the shape {each[:30]}": shape(each) for each in shapes}
    files |= {f"the type {each[:30]}": shape("(1,)", each) for each in types}
    files["a header of code"] = npy(f"open({CANARY!r}, 'w')\n")
    files["a header of 60000 brackets"] = npy("[" * 60_000)
    files["no header"] = b""
    files["a later version"] = npy("{}", version=b"\3\0")
    cases = [(what, put(name, zipped({f"{member}.npy": data}))) for what, data in files.items()]
    zeros = zipped({f"{member}.npy": shape("(300000000,)") + bytes(3 * 10**8)})
    many = zipped({f"m{i}.npy": b"" for i in range(20_000)}, zipfile.ZIP_STORED)
    return [
        *cases,
        ("a bomb", put(name, zeros)),
        ("20000 members", put(name, many)),
        *encrypted(name),
        *odd_files(name),
    ]


def encrypted(name: str) -> list[Case]:
    def spoil(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        for sign, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            at = data.find(sign)
            while at >= 0:
                data[at + place] |= 1
                at = data.find(sign, at + 4)
        (folder / name).write_bytes(bytes(data))

    return [("encrypted", spoil)]


# Trees and texts


def of_json(name: str) -> list[Case]:
    texts = {
        "lists in lists": b"[" * 10**5,
        "lists in lists, closed": b"[" * 90_000 + b"]" * 90_000,
        "empty lists": b"[" + b"[]," * 10**6 + b"[]]",
        "mappings in mappings": b'{"a":' * 50_000,
        "a number of digits": b"1" * 10**6,
        "no letters": b"\xff\xfe\xff",
        "half a letter": b'{"format": 1, "space": "\\ud800"}',
        "NaN": b"NaN",
        "words": b"x" * 10**6,
    }
    return [*((what, put(name, data)) for what, data in texts.items()), *odd_files(name)]


def of_yaml(name: str) -> list[Case]:
    bomb = b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (c + 1, c + 1, c, c) for c in range(97, 120))
    texts = {
        "aliases": bomb,
        "a call": f"task: !!python/object/apply:os.system ['touch {CANARY}']\n".encode(),
        "a name of Python": b"task: !!python/name:os.system\n",
        "lists in lists": b"space: " + b"[" * 10**5,
        "flows in flows": b"space: " + b"{a: " * 10**4,
        "blocks in blocks": b"".join(b" " * i + b"a:\n" for i in range(400)),
        "questions": b"? " * 10**5,
        "dashes": b"- " * 10**5,
        "an anchor": b"task: &x digits\n",
        "a number of digits": b"trials: " + b"9" * 10**5,
        "a float of digits": b"max_macs: " + b"9" * 10**5 + b".0",
        "no letters": b"\xff\xfe\x00",
        "controls": b"task: \x00\x01",
        "escapes": b'task: "\\x1b[2J\\e"',
        "dates": b"trials: 2001-01-01\nseed: 10:30\nname: 0o17\nepochs: 1_000\n",
        "binary": b"task: !!binary aGk=\n",
        "documents": b"a: 1\n---\nb: 2\n" * 1000,
        "half a letter": b'task: "\\ud800"',
    }
    return [*((what, put(name, data)) for what, data in texts.items()), *odd_files(name)]


def of_texts(name: str) -> list[Case]:
    texts = {
        "digits": b"macs < " + b"1" * 10**5,
        "digits and a letter": b"macs < " + b"1" * 9_900 + b"x",
        "blanks": b" " * 10**5 + b"x",
        "names": b"a" * 9_000 + b" < 1",
        "conditions": b"macs < 1 and " * 700 + b"macs < 1",
        "an exponent": b"macs < 1e" + b"9" * 5000,
        "escapes": b"\x1b[2J\x1b]0;x\x07 < 1",
        "brackets": b"(" * 10**5,
        "bars": b"|" * 10**5 + b"~",
        "signs": b"+" * 10**5,
    }
    return [(what, put(name, data)) for what, data in texts.items()]


def of_csv(name: str) -> list[Case]:
    head = b"architecture,cifar10_valid_error_e12\n"
    texts = {
        "a quote without an end": head + b'"' + b"x" * 10**6,
        "a cell of megabytes": head + b"x" * 10**6 + b",0.1\n",
        "columns": b"architecture," + b",".join(b"c%d" % i for i in range(10**5)),
        "no letters": b"\xff\xfe",
        "zeros": bytes(10**5),
        "escapes": head + b"\x1b[2J,0.1\n",
        "digits": head + b"x," + b"1" * 10**5,
    }
    return [*((what, put(name, data)) for what, data in texts.items()), *odd_files(name)]


# Images


def tarred(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz", form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=form) as tar:  # pyright: ignore
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **headers: str) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.pax_headers = kind, link, headers
    return found


def of_tars(name: str) -> list[Case]:
    mode = "w:gz" if name.endswith("gz") else "w"
    good = photo()
    tars = {
        "a header of megabytes": tarred((info("a/x.png", comment="x" * 10**7), good), mode=mode),
        "a name of megabytes": tarred((info("a" * 10**7 + ".png"), good), mode=mode, form=tarfile.GNU_FORMAT),
        "zeros": tarred((info("a/x.png"), bytes(2 * 10**8)), mode="w:gz"),
        "many zeros": tarred(*((info(f"a/{i}.png"), bytes(2 * 10**7)) for i in range(30)), mode="w:gz"),
        "a link outward": tarred((info("a/x.png", tarfile.SYMTYPE, "/etc/passwd"), b""), mode=mode),
        "a hard link outward": tarred((info("a/x.png", tarfile.LNKTYPE, "/etc/passwd"), b""), mode=mode),
        "a pipe": tarred((info("a/x.png", tarfile.FIFOTYPE), b""), mode=mode),
        "names outward": tarred((info("../../x.png"), good), (info("/a/b.png"), good), mode=mode),
        "escapes in a name": tarred((info("a\x1b[2J\n/x.png"), b"x"), mode=mode),
        "sizes in a header": tarred((info("a/x.png", size="9" * 30), good), mode=mode),
        "a sparse file": tarred(
            (info("a/x.png", **{"GNU.sparse.major": "0", "GNU.sparse.size": "9" * 12}), b""), mode=mode
        ),
    }
    return [*((what, put(name, data)) for what, data in tars.items()), *odd_files(name)]


def png(width: int, height: int) -> bytes:
    import zlib

    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    data = zlib.compress(bytes(10**6))
    body = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    return b"\x89PNG\r\n\x1a\n" + chunk + body


def of_images(name: str) -> list[Case]:
    files = {
        "50000 x 50000 pixels": png(50_000, 50_000),
        "7000 x 7000 pixels": png(7000, 7000),
        "no pixels": png(0, 0),
        "EPS, which asks for a program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "a GIF": b"GIF89a" + bytes(100),
        "a TIFF that goes round": b"II*\0\x08\0\0\0" + b"\1\0" + bytes(12) + b"\x08\0\0\0",
    }
    cases = [(what, put(name, data)) for what, data in files.items()]
    return [*cases, sparse(name, b"\x89PNG\r\n\x1a\n"), *odd_files(name)]


def gz(kind: bytes, sizes: tuple[int, ...], data: bytes = b"") -> bytes:
    return gzip.compress(kind + struct.pack(f">{len(sizes)}I", *sizes) + data, 1)


def of_idx(name: str) -> list[Case]:
    images = b"\0\0\x08\x03"
    bomb = gzip.compress(images + struct.pack(">3I", 400_000, 28, 28) + bytes(28 * 28 * 400_000), 1)
    files = {
        "sizes that are too many": gz(images, (2**32 - 1,) * 3),
        "no sizes": gz(images, ()),
        "sizes of nothing": gz(images, (0, 2**32 - 1, 2**32 - 1)),
        "another type": gz(b"\0\0\x0e\x03", (1, 1, 1)),
        "a bomb": bomb,
    }
    return [*((what, put(name, data)) for what, data in files.items()), *odd_files(name)]


def of_xml(name: str) -> list[Case]:
    entities = b"".join(b'<!ENTITY a%d "&a%d;&a%d;">' % (i + 1, i, i) for i in range(40))
    texts = {
        "entities": b'<!DOCTYPE x [<!ENTITY a0 "x">' + entities + b"]><annotation>&a40;</annotation>",
        "a file": b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>',
        "an address": b'<!DOCTYPE x SYSTEM "http://127.0.0.1/x"><annotation/>',
        "elements in elements": b"<annotation>" + b"<a>" * 10**5,
        "objects": b"<annotation>" + b"<object/>" * 10**5 + b"</annotation>",
        "an encoding": b'<?xml version="1.0" encoding="rot13"?><annotation/>',
        "attributes": b"<annotation " + b" ".join(b'a%d=""' % i for i in range(10**5)) + b"/>",
    }
    return [*((what, put(name, data)) for what, data in texts.items()), *odd_files(name)]


def outward(name: str) -> Case:
    def spoil(folder: Path) -> None:
        data = json.loads((folder / name).read_text())
        for each, path in zip(
            data["images"], ("../../../etc/passwd", "/etc/passwd", "..", "a\x1b[2J.png"), strict=True
        ):
            each["file_name"] = path
        (folder / name).write_text(json.dumps(data))

    return "names outward", spoil


# What was learned


def with_arrays(name: str, value: float) -> Case:
    def spoil(folder: Path) -> None:
        from safetensors import numpy as form

        data = (folder / name).read_bytes()
        note = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__")
        filled = {key: np.full_like(each, value) for key, each in form.load(data).items()}
        (folder / name).write_bytes(form.save(filled, without_checksum(note)))

    return f"{name} holds {value:g}", spoil


def of_safetensors(name: str) -> list[Case]:
    files = {
        "a header of exabytes": b"\xff" * 8,
        "a header of lists": (10**5).to_bytes(8, "little") + b"[" * 10**5,
        "an array of exabytes": (66).to_bytes(8, "little")
        + b'{"a":{"dtype":"F32","shape":[9999999999],"data_offsets":[0,9]}}   ',
        "a pickle": pickle.dumps([Calls(os.system, f"touch {CANARY}")]),
    }
    numbers = [with_arrays(name, value) for value in (3e38, -3e38, 1e-38, float("nan"), float("inf"))]
    return [*((what, put(name, data)) for what, data in files.items()), *numbers, *odd_files(name)]


def described(name: str, **changes: Any) -> Case:
    """Both the description and the note beside the weights say it."""

    def spoil(folder: Path) -> None:
        from safetensors import numpy as form

        data = {**json.loads((folder / name).read_text()), **changes}
        weights = folder / "weights.safetensors"
        (folder / name).write_text(json.dumps(data))
        weights.write_bytes(form.save(form.load(weights.read_bytes()), {"note": json.dumps(data)}))

    return f"described by {str(changes)[:60]}", spoil


ODD_DESCRIPTIONS: list[dict[str, Any]] = [
    {"mean": [float("nan")] * 3},
    {"mean": [1e308] * 3},
    {"mean": [0.5] * 2},
    {"std": [0.0] * 3},
    {"std": [1e-300] * 3},
    {"std": [True] * 3},
    {"std": "111"},
    {"encoding": [9] * 6},
    {"encoding": [1.5] * 6},
    {"encoding": [True] * 6},
    {"encoding": [10**400] * 6},
    {"encoding": None},
    {"space": {"name": "nasbench201", "width": 10**5, "cells": 1000, "image_size": 8, "num_classes": 3}},
    {"space": {"name": "absent/x.py:Space"}},
    {"space": {"name": "os:system"}},
    {"space": "nasbench201"},
    {"kind": {"name": "classification", "num_classes": 10**9}},
    {"classes": ["a\x1b[2J"] * 3},
    {"classes": [[]] * 3},
    {"format": 10**400},
    {"resize": {}},
    {"packed": True},
]


# The store


def sql(*statements: str) -> Case:
    def spoil(folder: Path) -> None:
        database = sqlite3.connect(folder / "nas.db")
        database.execute("pragma ignore_check_constraints=on")
        database.execute("pragma writable_schema=on")
        for statement in statements:
            database.execute(statement)
        database.commit()
        database.close()

    return statements[0][:70], spoil


ENDLESS = "with recursive t(id) as (select 1 union all select id + 1 from t) select id, 'x' name from t"
STORES = [
    sql("alter table run rename to kept", f"create view run as {ENDLESS}"),
    sql("create trigger a after update on run begin delete from trial; end"),
    sql("alter table run add column x as (zeroblob(1000000000))"),
    sql("update run set name = char(27) || '[2J'"),
    sql("update run set name = '../../x'"),
    sql("update run set config = '[1'"),
    sql("update run set config = 5"),
    sql("update run set config = '" + "[" * 50_000 + "'"),
    sql("update run set config = json_set(config, '$.files', '/etc')"),
    sql("update run set config = json_set(config, '$.given', 5)"),
    sql("update run set config = json_set(config, '$.given.objectives', json('[]'))"),
    sql("update run set config = json_set(config, '$.metric', json('{}'))"),
    sql("update run set config = json_set(config, '$.architectures', 5)"),
    sql("update run set started = 'yesterday'"),
    sql("update trial set encoding = '[99999999999999999999]'"),
    sql("update trial set description = char(10) || '<script>'"),
    sql("update trial set state = 'odd'"),
    sql("update trial set number = number + 500"),
    sql("delete from trial where number = 3"),
    sql("delete from trial where number = 9"),
    sql("delete from trial where kind = 'final'"),
    sql("delete from measurement"),
    sql("delete from measurement where name = 'error'"),
    sql("update measurement set value = 9e999"),
    sql("update measurement set value = 'x'"),
    sql("update measurement set name = char(27) || name"),
    sql('update trial set "order" = null where number = 9'),
    sql("update trial set budget = -1"),
    sql("update trial set repeats = 7 where number = 2"),
    sql("update trial set drawn = '[]'"),
    sql("update trial set architecture = x'ff'"),
    sql("update trial set architecture = cast(x'ff' as text)"),
    sql("update nas_version set version_num = 'x'"),
    sql("delete from nas_version"),
    sql("drop table measurement"),
    sql("pragma application_id = 5"),
    *odd_files("nas.db"),
]


def of(reader: str) -> list[Case]:
    """The cases that were written for a reader."""
    if reader not in _made:
        _made[reader] = _written(reader)
    return _made[reader]


_made: dict[str, list[Case]] = {}


def _written(reader: str) -> list[Case]:
    match reader:
        case "table":
            return of_arrays("t.npz", "encodings")
        case "NAS-Bench-201 as npz":
            return [*odd_files("t.npz"), *encrypted("t.npz")]
        case "NATS-Bench, one pickle":
            return of_pickles("nats.pickle")
        case "NATS-Bench, a folder":
            return [
                *of_pickles("meta.pickle.pbz2")[:8],
                *odd_files("meta.pickle.pbz2"),
                *odd_files("000001.pickle.pbz2"),
            ]
        case "NAS-Bench-201 of torch":
            return of_pickles("nb201.pth")
        case "NAS-Bench-201 of torch, zip":
            files = {what: zipped({"a/data.pkl": data}) for what, data in pickles().items()}
            bomb = zipped({"a/data.pkl": b"N" * 10**8})
            return [
                *((what, put("nb201.pth", data)) for what, data in files.items()),
                ("a bomb", put("nb201.pth", bomb)),
            ]
        case "CSV of a table":
            return of_csv("t.csv")
        case "configuration":
            return of_yaml("run.yaml")
        case "--where and --limit":
            return of_texts("where.txt")
        case "architectures":
            return of_texts("architectures.txt")
        case "command line":
            return of_texts("words.txt")
        case "latencies":
            return of_json("l.json")
        case "comparison":
            return [*of_json("comparison.json"), *of_csv("curves.csv")]
        case "predictor":
            return [*of_json("p/card.json"), *of_safetensors("p/predictor.safetensors")]
        case "exported network":
            name = "architecture.json"
            odd = [described(name, **changes) for changes in ODD_DESCRIPTIONS]
            return [*odd, *of_json(name), *of_safetensors("weights.safetensors")]
        case "packed network":
            return of_safetensors("weights.safetensors")
        case "folder of images" | "folder, --skip-invalid":
            return of_images("ant/0.png")
        case "tar.gz of images":
            return of_tars("images.tar.gz")
        case "tar of images":
            return of_tars("images.tar")
        case "npz of images" | "npz to predict":
            return of_arrays("a.npz", "images")
        case "IDX":
            return of_idx("train-images-idx3-ubyte.gz")
        case "CIFAR-10, binary":
            return odd_files("data_batch_1.bin")
        case "CIFAR-10, pickled":
            return of_pickles("data_batch_1")
        case "VOC":
            return [
                *of_xml("Annotations/a0.xml"),
                *of_images("JPEGImages/a0.jpg"),
                *odd_files("ImageSets/Main/train.txt"),
            ]
        case "COCO":
            return [outward("o.json"), *of_json("o.json"), *of_images("images/0.png")]
        case "photo":
            return of_images("photo.png")
        case "store" | "store, resumed":
            return STORES
    return []
