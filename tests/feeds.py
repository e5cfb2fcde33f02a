"""Product feeds of any format, written from the same products."""

import csv
import json
from xml.sax.saxutils import escape

RSS = """<?xml version="1.0" encoding="UTF-8"?>
<rss xmlns:g="http://base.google.com/ns/1.0" version="2.0">
<channel>
<title>A shop</title>
<link>https://shop.example</link>
{items}
</channel>
</rss>
"""
ATOM = """<?xml version="1.0"?>
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:g="http://base.google.com/ns/1.0">
<title>A shop</title>
{items}
</feed>
"""
# Those that RSS has itself.
PLAIN = ("title", "link", "description")


def products(count=12, each=2, folder="photos"):
    """Products in Google Merchant's words: two sizes an item, `each` photos a size."""
    found = []
    for number in range(count):
        photos = [f"{folder}/{number}-{view}.jpg" for view in range(each)]
        found.append(
            {
                "id": f"SKU-{number:03d}",
                "title": f'Shirt "{number}", <long> & thin\twith a tab',
                "link": f"https://shop.example/{number}?a=1&b=2",
                "image_link": photos[0],
                "additional_image_link": photos[1:],
                "item_group_id": f"G{number // 2}",
                "product_type": ("Tops > Shirts", "Tops > Kimonos é")[number % 4 // 2],
                "availability": ("in_stock", "out of stock")[number % 2],
                "price": f"{10 + number}.50 EUR",
                "sale_price": f"{number + 1:d}.00 EUR" if number % 3 == 0 else "",
                "brand": "Fjord",
                "gtin": f"{4000000 + number}",
                "adult": ("no", "yes")[number == 3],
                "stock": str(number),
            }
        )
    return found


def write_text(path, rows, delimiter="\t", end="\r\n", **options):
    """Writes Google's feed as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, lineterminator=end)
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {
                    name: ",".join(cell) if isinstance(cell, list) else cell
                    for name, cell in row.items()
                }
            )
    return path


def xml_item(row, tag="item"):
    """One product as RSS or Atom has it."""
    parts = []
    for name, cell in row.items():
        own = name if name in PLAIN else f"g:{name}"
        for text in cell if isinstance(cell, list) else [cell]:
            if tag == "entry" and name == "link":
                parts.append(f'<link href="{escape(text)}"/>')
            else:
                parts.append(f"<{own}>{escape(text)}</{own}>")
    return f"<{tag}>\n{''.join(parts)}\n</{tag}>"


def write_xml(path, rows, frame=RSS, encoding="utf-8"):
    """Writes Google's feed as XML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tag = "entry" if frame is ATOM else "item"
    text = frame.format(items="\n".join(xml_item(row, tag) for row in rows))
    path.write_bytes(text.replace("UTF-8", encoding).encode(encoding))
    return path


def write_json(path, rows):
    """Writes JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
