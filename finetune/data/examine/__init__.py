"""`finetune data check`: every row looked at once, and what was found told by code.

settings → pieces → rows → notes and sums → the rows together → report and page. A file of `text`, `private`, `answers`,
`tools` or `languages` finds one kind of defect in one row, and knows nothing of files or counts.
"""
