import json
import sqlite3

from edgeai.cli.exits import Exit
from edgeai.ledger import Ledger
from tests.cli.conftest import Run


def test_verify_and_list(run: Run) -> None:
    """The list shows what left; verify is content, until a row is removed."""
    with Ledger.open() as ledger:
        path = ledger.path
        for _ in range(2):
            ledger.disclosures.add(
                endpoint="https://x.test/v1", model="m", body=b"hi", labels=("a",), redactions={"EMAIL": 2}
            )
    assert "https://x.test/v1\t2\ta\t2 EMAIL\t" in run("ledger", "disclosures").out
    assert len(json.loads(run("ledger", "disclosures", "--json", "-n", "1").out)) == 1
    assert run("ledger", "verify").out.startswith("2 disclosures: none was altered")
    db = sqlite3.connect(path)
    with db:
        db.execute("DELETE FROM disclosures WHERE number = 2")
    db.close()
    done = run("ledger", "verify")
    assert done.code == Exit.LEDGER
    assert "removed at the end" in done.err
