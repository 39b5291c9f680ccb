"""CSV files that spreadsheets may open."""

import io

from ratelimit_service.csv_text import write_csv


def test_no_text_is_a_formula() -> None:
    """A text that begins as formulas do gets an apostrophe, also where it is quoted; other texts and numbers stay."""
    file = io.StringIO()
    texts = ["=1+1", "+1", "-1", "@x", "\tx", "=a,b", "plain", "a=b", "\uff1d1"]
    write_csv(file, [texts, [-5, 0.5, ""]], line_end="\n")
    assert file.getvalue() == "'=1+1,'+1,'-1,'@x,'\tx,\"'=a,b\",plain,a=b,'\uff1d1\n-5,0.5,\n"
