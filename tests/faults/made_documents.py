"""Documents that the tests make: a Word file and a PDF file."""

import io

from docx import Document as WordDocument
from fpdf import FPDF, XPos, YPos


def word_file(change: bool = False) -> bytes:
    document = WordDocument()
    document.add_heading("Travel policy", 0)
    document.add_heading("Trains", 1)
    document.add_paragraph("Second class.")
    table = document.add_table(2, 2)
    for row, cells in zip(table.rows, (("km", "class"), ("500", "first")), strict=True):
        for cell, text in zip(row.cells, cells, strict=True):
            cell.text = text
    document.add_heading("Planes", 1)
    document.add_paragraph("Only if a train takes a day." + (" Or a night." if change else ""))
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


LINES = (
    "The kettle heats the water to the temperature that the tea needs, and it is a well-known de-",
    "vice in every kitchen where tea is brewed more than once on any given day of the whole long",
    "year. This is the end.",
    "A new paragraph begins after a short line, and it continues on the next line of the page, too, so",
    "that it is one paragraph.",
)


class Printed(FPDF):
    """A document with a header and a footer on each page."""

    def header(self) -> None:
        self.cell(0, 8, f"Kettle manual {self.page_no()}", new_x=XPos.LMARGIN, new_y=YPos.NEXT)

    def footer(self) -> None:
        self.set_y(-12)
        self.cell(0, 8, f"{self.page_no()}")


def pdf_file(password: str | None = None) -> bytes:
    document = Printed()
    document.set_font("Helvetica", size=10)
    document.set_title("Kettle manual")
    if password:
        document.set_encryption(owner_password=f"owner's {password}", user_password=password)
    for chapter in ("1 Heating", "2 Cleaning", "3 Storage"):
        document.add_page()
        document.start_section(chapter)
        for line in (chapter, *LINES, f"More about {chapter[2:].lower()}."):
            document.cell(0, 6, line, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    return bytes(document.output())
