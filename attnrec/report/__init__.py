"""Reports: one self-contained HTML page with metrics, recommendations and their reasons.

`selection` selects users, `content` computes what the page shows of them, `ranks` the ranks without an event, `items`
collects titles and images, `tables` and `summary` prepare the metrics, and `page` puts everything into one file.
"""

from attnrec.report.report import Report, write_report

__all__ = ["Report", "write_report"]
