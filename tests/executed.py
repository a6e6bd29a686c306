"""Notebooks of `examples/`, executed as a reader would, and what they show."""

from pathlib import Path


def pictures_of(cell) -> int:
    """How many pictures a cell shows."""
    return sum("image/png" in output.get("data", {}) for output in cell.get("outputs", []))


def execute(notebook, folder: Path, timeout_s: int = 300) -> None:
    """Runs all cells from an empty state, in a folder; raises where one fails."""
    import nbclient

    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    nbclient.NotebookClient(
        notebook,
        timeout=timeout_s,
        kernel_name="python3",
        resources={"metadata": {"path": folder}},
    ).execute()


def assert_stored_whole(notebook) -> None:
    """The outputs that are stored come from one run, top to bottom, without a complaint."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)
