"""The report of finished runs: one page that opens from disk and asks for nothing from outside.

entries     runs that differ in their seed alone, together
measures    the columns of its tables
notes       what is said of runs besides their numbers
rows        every row with the answers of each run, pictures and questions: rows.html.j2
told        what is known of rows besides their scores
page        page.html.j2, style.css and page.js, filled in
"""

from mambavl.fuse.report.entries import Entry as Entry
from mambavl.fuse.report.entries import collect as collect
from mambavl.fuse.report.notes import leak_sentences as leak_sentences
from mambavl.fuse.report.notes import what_ran as what_ran
from mambavl.fuse.report.page import write_report as write_report
from mambavl.fuse.report.told import Questions as Questions
from mambavl.fuse.report.told import Told as Told
