"""A record described for other tools: as an in-toto statement, and as the metadata of an RO-Crate.

in-toto Attestation Framework: Statement v1 and the predicate Test Result v0.1, whose `result` is PASSED where the part
conforms, FAILED where it does not and WARNED where that cannot be said. RO-Crate Metadata Specification 1.1.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

from . import __version__
from .record import read
from .seal import check

RESULTS = {"conforms": "PASSED", "does not conform": "FAILED", "inconclusive": "WARNED"}
PASSED, FAILED = ("conforms",), ("below", "above")


def in_toto(record_path: Path) -> dict[str, Any]:
    """An unsigned in-toto statement about the record, with the verdicts by the sheet of its PCI id.

    Raises record.RecordError, verify.VerifyError, seal.SealError.
    """
    from .verify import judge_record

    judgement = judge_record(record_path, None)
    kernels = {(k["name"], k["cubin_sha256"]) for k in read(record_path).kernels if k["cubin_sha256"]}

    def tests(*words: str) -> list[str]:
        return [v.metric for v in judgement.verdicts if v.verdict in words]

    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": path.name, "digest": {"sha256": _digest(path)}} for path in _files(record_path)],
        "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
        "predicate": {
            "result": RESULTS[judgement.overall],
            "configuration": [
                {"name": f"sheet {judgement.sheet.name}"},
                *({"name": f"kernel {name}", "digest": {"sha256": digest}} for name, digest in sorted(kernels)),
            ],
            "passedTests": tests(*PASSED),
            "warnedTests": tests("inconclusive", "unattainable sheet"),
            "failedTests": tests(*FAILED),
        },
    }


def ro_crate(record_path: Path) -> dict[str, Any]:
    """The ro-crate-metadata.json of a folder that holds the record, its seal and its signature.

    Raises record.RecordError, seal.SealError.
    """
    record = read(record_path)
    part = str(record.claims.get("name", "a GPU"))
    started = str(record.run["started"])
    files = [
        {
            "@id": path.name,
            "@type": "File",
            "name": what,
            "encodingFormat": form,
            "contentSize": str(path.stat().st_size),
            "sha256": _digest(path),
        }
        for path, (what, form) in zip(_files(record_path), _KINDS, strict=False)
    ]
    return {
        "@context": "https://w3id.org/ro/crate/1.1/context",
        "@graph": [
            {
                "@id": "ro-crate-metadata.json",
                "@type": "CreativeWork",
                "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
                "about": {"@id": "./"},
            },
            {
                "@id": "./",
                "@type": "Dataset",
                "name": f"Measurement of {part}",
                "description": f"A gpuassay run record of {part}, run {record.run['run_id']}.",
                "datePublished": started,
                "license": "not stated",
                "hasPart": [{"@id": file["@id"]} for file in files],
            },
            *files,
            {
                "@id": "#run",
                "@type": "CreateAction",
                "name": "gpuassay verify",
                "instrument": {"@id": "#gpuassay"},
                "startTime": started,
                "result": {"@id": record_path.name},
            },
            {
                "@id": "#gpuassay",
                "@type": "SoftwareApplication",
                "name": "gpuassay",
                "version": str(record.run["program"]["version"]),
                "softwareVersion": str(record.run["program"]["commit"] or record.run["program"]["version"]),
                "description": f"Described by gpuassay {__version__}.",
            },
        ],
    }


_KINDS = (
    ("Run record", "application/jsonl"),
    ("Seal of the run record", "application/json"),
    ("Signature of the seal", "application/x-pem-file"),
)


def _files(record_path: Path) -> list[Path]:
    found = check(record_path)
    files = [record_path] + ([found.path, found.signature] if found else [])
    return [path for path in files if path.exists()]


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
