"""The papers' tables as runs, and reports of them beside the published figures."""
