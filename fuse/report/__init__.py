"""The report of finished runs: one page that opens from disk and asks for nothing from outside.

entries, measured           runs that differ in their seed alone, together; what scores say of rows
tables, intervals           a table for page, CSV and LaTeX; the bootstrap of `compare`
caveats, notes              what the numbers do not show; what is said besides them
headline, controls, measures, classes, confusion, calibration, people, cost, provenance: its parts
rows, told                  every row with the answers of each run; what is known of rows besides scores
page                        page.html.j2, style.css and the scripts, filled in
"""

from mambavl.fuse.report.entries import Entry as Entry
from mambavl.fuse.report.entries import collect as collect
from mambavl.fuse.report.notes import leak_sentences as leak_sentences
from mambavl.fuse.report.notes import what_ran as what_ran
from mambavl.fuse.report.page import write_report as write_report
from mambavl.fuse.report.told import Questions as Questions
from mambavl.fuse.report.told import Told as Told
