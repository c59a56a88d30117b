#!/usr/bin/env python3
"""What a binary of msrp-relay is made of.

    packaging/materials.py TARGET DIRECTORY

Writes for the target triple, from Cargo.lock and the crates as cargo has them here:

  DIRECTORY/msrp-relay.cdx.json      a bill of materials (CycloneDX 1.5): every crate in the binary
  DIRECTORY/third-party-licences.gz  their licence texts and notices, each once

Both are the same wherever and whenever they are made.
"""

import gzip
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTICE = re.compile(r"^(licen[cs]e|copying|copyright|notice|unlicense)", re.IGNORECASE)


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments, "--locked"], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def linked(name, target):
    """What ends up in the binary of this package: it, and the rest with what each needs of the rest.

    `cargo metadata` has the features of the whole workspace; `cargo tree` says what this package alone is built from.
    """
    tree = cargo("tree", "-p", name, "-e", "normal,no-proc-macro", "--target", target, "--prefix", "none", "-f", "{p}")
    built = {tuple(line.split()[:2]) for line in tree.splitlines()}
    data = json.loads(cargo("metadata", "--format-version", "1", "--filter-platform", target))
    packages = {
        package["id"]: package
        for package in sorted(data["packages"], key=lambda package: (package["name"], package["version"]))
        if (package["name"], "v" + package["version"]) in built
    }
    assert len(packages) == len(built), "cargo tree and cargo metadata differ"
    nodes = {node["id"]: node["deps"] for node in data["resolve"]["nodes"]}

    def needs(package):
        needed = (dependency["pkg"] for dependency in nodes[package["id"]] if is_linked(dependency))
        return [packages[name] for name in sorted(needed) if name in packages]

    def is_linked(dependency):
        return any(kind["kind"] is None for kind in dependency["dep_kinds"])

    root = next(package for package in packages.values() if package["name"] == name)
    return root, [(package, needs(package)) for package in packages.values()]


def reference(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, kind="library"):
    found = {"type": kind, "bom-ref": reference(package), "name": package["name"], "version": package["version"]}
    if package["license"]:
        # Before there was SPDX in Cargo.toml, a slash meant `or`.
        found["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    found["purl"] = reference(package)
    return found


def bill(root, crates):
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {**component(root, "application"), "name": "msrp-relay"}},
        "components": [component(package) for package, _ in crates if package is not root],
        "dependencies": [
            {"ref": reference(package), "dependsOn": [reference(need) for need in needs]} for package, needs in crates
        ],
    }


def notices(crates):
    """Each text with the crates that have it, and the crates without one."""
    texts, without = {}, []
    for package, _ in crates:
        if package["source"] is None:
            continue
        folder = pathlib.Path(package["manifest_path"]).parent
        files = sorted(file for file in folder.iterdir() if NOTICE.match(file.name) and file.is_file())
        for file in files:
            text = file.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n").strip()
            texts.setdefault(text, []).append(f"{package['name']} {package['version']}")
        if not files:
            without.append(f"{package['name']} {package['version']}: {package['license']}")
    lines = ["msrp-relay contains these crates, whose licences ask for what follows to go with them.\n"]
    for text, users in sorted(texts.items(), key=lambda item: item[1]):
        lines += ["=" * 79, ", ".join(dict.fromkeys(users)), "=" * 79, "", text, ""]
    if without:
        lines += ["=" * 79, "Crates that bring no text of their licence", "=" * 79, "", *without, ""]
    return "\n".join(lines)


def main(target, directory):
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    root, crates = linked("relay", target)
    text = json.dumps(bill(root, crates), indent=1, ensure_ascii=False) + "\n"
    (directory / "msrp-relay.cdx.json").write_text(text, encoding="utf-8")
    with open(directory / "third-party-licences.gz", "wb") as file:
        with gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
            packed.write(notices(crates).encode())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], os.path.abspath(sys.argv[2]))
