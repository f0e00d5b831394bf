"""HTML on standard input, PDF on standard output: a script of its own, which pdf.py starts.

It needs nothing of this program. Exit code 3 where WeasyPrint is not to be had, with the reason on standard error.
"""

from __future__ import annotations

import gc
import sys

UNAVAILABLE = 3


def main() -> int:
    """The exit code."""
    gc.set_threshold(200_000, 50, 100)  # see cli.main
    try:
        from weasyprint import HTML
        from weasyprint.urls import URLFetcher
    except (ImportError, OSError) as error:  # OSError: Pango is missing
        print(error, file=sys.stderr)
        return UNAVAILABLE
    text = sys.stdin.buffer.read().decode("utf-8")
    if not text.endswith("</html>\n"):
        return 0  # whoever started this is gone, or wants nothing any more
    # Only what the file itself holds: text from outside must not make the host fetch anything.
    fetcher = URLFetcher(allowed_protocols=("data",))
    sys.stdout.buffer.write(HTML(string=text, url_fetcher=fetcher).write_pdf())
    return 0


if __name__ == "__main__":
    sys.exit(main())
