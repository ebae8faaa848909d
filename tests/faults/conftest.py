"""The campaign as a table: each test here is a case; `promise` is its parameter or its name, `seen` what the
test recorded with record_property."""

import pytest

CASES = pytest.StashKey[list]()


def pytest_configure(config):
    config.stash[CASES] = []


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if call.when == "call" or report.skipped and call.when == "setup":
        parameters = getattr(item, "callspec", None)
        promise = parameters.params.get("promise") if parameters else None
        seen = dict(item.user_properties).get("seen", "")
        case = parameters.id if parameters else item.name.removeprefix("test_").replace("_", " ")
        group = item.path.stem.removeprefix("test_").replace("_", " ")
        what = item.originalname.removeprefix("test_").replace("_", " ")
        item.config.stash[CASES].append((group, case, what if promise is None else promise, seen,
                                         {"passed": "yes", "failed": "NO"}.get(report.outcome, "not run")))


def pytest_terminal_summary(terminalreporter, config):
    cases, table = config.stash[CASES], config.option.faults_table
    if not table:
        return
    rows = "".join("| " + " | ".join(" ".join(str(entry).split()).replace("|", "\\|")[:160] for entry in case)
                   + " |\n" for case in cases)
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(f"| Group | Case | Promise | Seen | Held |\n|:--|:--|:--|:--|:--|\n{rows}", "utf-8")
    held = sum(case[-1] == "yes" for case in cases)
    terminalreporter.write_line(f"{table}: {len(cases)} cases, {held} held, "
                                f"{sum(case[-1] == 'NO' for case in cases)} did not")
