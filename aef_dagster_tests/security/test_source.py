"""The source itself: nothing unpickles, evaluates or reaches a shell; no SQL is made of input."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "aef_dagster").rglob("*.py"))
# Benchmarks and tests are run by developers only, but are copied from.
ALL = [
    *SOURCES,
    *sorted((ROOT / "benchmarks").rglob("*.py")),
    *sorted((ROOT / "deploy").rglob("*.py")),
]
BANNED_MODULES = {
    "pickle", "cPickle", "_pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal", "pty",
}  # fmt: skip
# The last parts of a dotted call. `eval` of a network is a method without arguments.
BANNED_CALLS = {
    "eval", "exec", "compile", "__import__", "system", "popen", "getoutput", "getstatusoutput",
    "read_pickle", "to_pickle", "unpack_archive", "extract", "extractall", "mktemp", "full_load",
    "unsafe_load", "create_subprocess_shell", "execl", "execv", "execvp",
}  # fmt: skip
# Python's zip reader drops `..` and links, and a developer chose this archive.
ALLOWED = {"benchmarks/neuralhydrology/files.py": ["calls opened.extractall"]}
METHODS = {"eval", "compile", "extract"}  # of networks, patterns and frames: only bare names count
SQL = ("execute", "frame", "sql", "query", "executemany")


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Every call of a file: its dotted name, its node."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            found.append((dotted(node.func), node))
    return found


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def faults(path: Path) -> list[str]:
    """What a file must not hold, each with its line."""
    tree = ast.parse(path.read_text())
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found += [f"{node.lineno}: imports {n}" for n in names if n.split(".")[0] in BANNED_MODULES]
    for name, node in calls(path):
        last = name.rpartition(".")[2]
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        if last in BANNED_CALLS and not (last in METHODS and "." in name):
            found.append(f"{node.lineno}: calls {name}")
        if name.endswith("torch.load") and not is_true(named.get("weights_only")):
            found.append(f"{node.lineno}: torch.load without weights_only=True")
        if "allow_pickle" in named and not is_false(named["allow_pickle"]):
            found.append(f"{node.lineno}: {name} with allow_pickle")
        if name == "yaml.load" and dotted(named.get("Loader", node)) not in (
            "yaml.SafeLoader", "yaml.CSafeLoader",
        ):  # fmt: skip
            found.append(f"{node.lineno}: yaml.load without SafeLoader")
        if "shell" in named and not is_false(named["shell"]):
            found.append(f"{node.lineno}: {name} with a shell")
    return found


def is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def is_false(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_nothing_unpickles_evaluates_or_reaches_a_shell():
    assert len(SOURCES) > 150
    found: dict[str, list[str]] = {}
    for path in ALL:
        for fault in faults(path):
            found.setdefault(str(path.relative_to(ROOT)), []).append(fault.partition(": ")[2])
    assert found == ALLOWED


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from joblib import load", "import cloudpickle as c", "import marshal",
        "eval('1')", "exec(text)", "os.system('ls')", "subprocess.run(c, shell=True)",
        "subprocess.Popen(c, shell=flag)", "np.load(p, allow_pickle=True)", "torch.load(p)",
        "torch.load(p, weights_only=False)", "pd.read_pickle(p)", "yaml.load(t)",
        "yaml.load(t, Loader=yaml.Loader)", "archive.extractall(folder)", "tempfile.mktemp()",
        "shutil.unpack_archive(p)", "__import__('os')", "os.popen('ls')",
    ],
)  # fmt: skip
def test_the_search_finds_each_of_them(line, tmp_path):
    path = tmp_path / "code.py"
    path.write_text(line)
    assert faults(path)


def test_the_search_leaves_the_rest_alone(tmp_path):
    path = tmp_path / "code.py"
    path.write_text(
        "import json\nnetwork.eval()\nre.compile('a')\nnp.load(p, mmap_mode='r')\n"
        "yaml.load(t, Loader=yaml.SafeLoader)\ntorch.load(p, weights_only=True)\n"
        "subprocess.run(['ls'], shell=False)\nframe.str.extract('a')\n"
    )
    assert faults(path) == []


# Every expression that stands in SQL, by file; each a constant of ours, never a value from outside.
IN_SQL = {
    "pipeline/assets/change.py": {"', '.join(BANDS)": "names of bands"},
    "pipeline/assets/embeddings.py": {"', '.join(BANDS)": "names of bands"},
    "pipeline/bundling.py": {"', '.join('?' * len(NOT_BUNDLED))": "places of bound values"},
    "storage/backup.py": {"table": "of PLACES", "column": "of PLACES"},
    "storage/tables.py": {
        "', '.join(BANDS)": "names of bands",
        "', '.join(columns)": "names of bands and of their spread",
        "_OF_ROUTE": "a constant",
    },
    "storage/warehouse.py": {
        "_known(table)": "a table or view of the schema, checked",
        "table": "a table of the schema: of TABLES, or checked by `_known` a line above",
        "columns": "of TABLES or VIEWS",
        "definition": "a column of TABLES",
        "view": "of VIEWS",
        "pattern": "the home's own path, quotes doubled, its wildcards refused by Home.claim",
        "filename": "one of two constants",
        "where": "columns that callers write as keywords, values bound",
    },
}


def sql_parts(path: Path) -> list[tuple[int, str]]:
    """Line and source of all that is put into a text that is SQL."""
    tree = ast.parse(path.read_text())
    found = []
    for node in ast.walk(tree):
        values: list[ast.expr] = []
        if isinstance(node, ast.JoinedStr) and is_sql(node):
            values = [v.value for v in node.values if isinstance(v, ast.FormattedValue)]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
            if any(isinstance(side, ast.Constant | ast.JoinedStr) and is_sql(side)
                   for side in (node.left, node.right)):  # fmt: skip
                values = [node.right if is_sql(node.left) else node.left]
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "format"
            and is_sql(node.func.value)
        ):
            values = [*node.args, *(keyword.value for keyword in node.keywords)]
        found += [(node.lineno, ast.unparse(value)) for value in values]
    return found


def is_sql(node: ast.expr) -> bool:
    if isinstance(node, ast.JoinedStr):
        text = "".join(str(v.value) for v in node.values if isinstance(v, ast.Constant))
    else:
        text = str(node.value) if isinstance(node, ast.Constant) else ""
    verbs = ("SELECT ", "INSERT INTO", "DELETE FROM", "CREATE TABLE", "CREATE OR REPLACE",
             "ALTER TABLE", "UPDATE ", "DROP ", "COPY ", "ATTACH ")  # fmt: skip
    return any(text.lstrip().startswith(verb) or f" {verb}" in text for verb in verbs)


def test_what_stands_in_sql_is_written_by_us():
    found = {}
    for path in SOURCES:
        parts = {source for _line, source in sql_parts(path)}
        if parts:
            found[str(path.relative_to(ROOT / "aef_dagster"))] = parts
    assert found == {file: set(parts) for file, parts in IN_SQL.items()}


@pytest.mark.parametrize(
    "line",
    [
        "store.frame(f\"SELECT * FROM basins WHERE name = '{name}'\")",
        "store.frame('SELECT * FROM basins WHERE name = ' + name)",
        "store.frame('SELECT * FROM basins WHERE name = %s' % name)",
        "store.frame('SELECT * FROM {}'.format(name))",
    ],
)
def test_the_search_finds_a_value_in_sql(line, tmp_path):
    path = tmp_path / "code.py"
    path.write_text(line)
    assert [source for _line, source in sql_parts(path)] == ["name"]
