"""Check that a wheel holds the whole package, nothing else, and that it works on its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

wheel = Path(sys.argv[1])
names = zipfile.ZipFile(wheel).namelist()
tops = {name.split("/")[0] for name in names}
strangers = {top for top in tops if top != "ctsigprop" and not top.endswith(".dist-info")}
if strangers:
    sys.exit(f"{wheel.name} holds more than ctsigprop at its top: {sorted(strangers)}")

root = Path(__file__).resolve().parent.parent
inside = {
    str(path.relative_to(root))
    for path in (root / "ctsigprop").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}
missing = inside - set(names)
if missing:
    sys.exit(f"{wheel.name} lacks {sorted(missing)}")

with tempfile.TemporaryDirectory() as folder:
    zipfile.ZipFile(wheel).extractall(folder)
    code = (
        f"import sys; sys.path.insert(0, {folder!r}); import ctsigprop as ct;"
        f"assert ct.__file__.startswith({folder!r}), ct.__file__;"
        "from ctsigprop.data import visual_cortex_pairing; visual_cortex_pairing();"
        "print(ct.solve(ct.System(ct.fitzhugh_nagumo()), t=[0.0, 1.0]).status)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)
print(f"{wheel.name}: {len(names)} files, only ctsigprop at its top, works on its own")
