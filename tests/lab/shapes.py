"""Mail as people and programs write it, and as those do who want to be somebody else."""

import re

DATE = "Date: Wed, 25 Nov 2026 02:00:00 +0000"

# Whole messages by what is odd about them; FROM and ID stand for what they say.
SHAPES = {
    "plain": "From: FROM\r\n\r\nhello",
    "route": "From: <@relay.example:FROM>\r\n\r\nhello",
    "routes": "From: Ann <@a.example,@b.example:FROM>\r\n\r\nhello",
    "route of a stranger": "From: <@x.example:ceo@example.com>\r\n\r\nhello",
    "no author": "To: x@y.example\r\n\r\nhello",
    "no author but a sender": "Sender: ceo@example.com\r\n\r\nhello",
    "no address": "From: Scanner in room 5\r\n\r\nhello",
    "one word": "From: scanner\r\n\r\nhello",
    "empty": "From:\r\n\r\nhello",
    "null": "From: <>\r\n\r\nhello",
    "group": "From: G: CEO <ceo@example.com>;\r\n\r\nhello",
    "empty group": "From: nobody:;\r\n\r\nhello",
    "half a group": "From: CEO: Jane <ceo@example.com>\r\n\r\nhello",
    "two authors": "From: FROM, ceo@example.com\r\n\r\nhello",
    "two fields": "From: CEO <ceo@example.com>\r\nFrom: FROM\r\n\r\nhello",
    "blank before the colon": "From : ceo@example.com\r\n\r\nhello",
    "blank and another": "From : ceo@example.com\r\nFrom: FROM\r\n\r\nhello",
    "tab before the colon": "FROM\t: ceo@example.com\r\n\r\nhello".replace("FROM", "From"),
    "open comment": "From: (CEO <ceo@example.com>\r\n\r\nhello",
    "open quote": 'From: "CEO <ceo@example.com>\r\n\r\nhello',
    "open bracket": "From: CEO <ceo@example.com\r\n\r\nhello",
    "two brackets": "From: <ceo@example.com> <FROM>\r\n\r\nhello",
    "address as name": "From: ceo@example.com <FROM>\r\n\r\nhello",
    "quoted address as name": 'From: "ceo@example.com" <FROM>\r\n\r\nhello',
    "comma in the name": "From: Example, Ann <FROM>\r\n\r\nhello",
    "quoted comma": 'From: "Example, Ann" <FROM>\r\n\r\nhello',
    "escaped quote": 'From: "a \\"b\\" c" <FROM>\r\n\r\nhello',
    "backslash": 'From: "a\\\\" <FROM>\r\n\r\nhello',
    "comment": "From: FROM (Ann (of One))\r\n\r\nhello",
    "comment inside": "From: ann(x)@ two.example\r\n\r\nhello",
    "blanks inside": "From: Ann < FROM >\r\n\r\nhello",
    "folded": "From: Ann\r\n  <FROM>\r\n\r\nhello",
    "folded to nothing": "From:\r\n \r\n FROM\r\n\r\nhello",
    "encoded": "From: =?utf-8?q?J=C3=B6?= <FROM>\r\n\r\nhello",
    "encoded comma": "From: =?utf-8?q?a=2C_b?= <FROM>\r\n\r\nhello",
    "raw UTF-8": "From: Jö <FROM>\r\nSubject: ÄÖ ID\r\n\r\nschön",
    "long name": f"From: {'x' * 2000} <FROM>\r\n\r\nhello",
    "long name of words": f"From: {'word ' * 400}<FROM>\r\n\r\nhello",
    "upper case": "FROM: <FROM>\r\n\r\nhello".replace("FROM:", "FrOm:"),
    "literal": "From: ann@[192.0.2.1]\r\n\r\nhello",
    "local part alone": "From: root\r\n\r\nhello",
    "mbox line": "From ann Wed Nov 25 02:00:00 2026\r\nFrom: FROM\r\n\r\nhello",
    "semicolons": "From: FROM; ceo@example.com\r\n\r\nhello",
    "no body": "From: FROM\r\n",
    "only a blank line": "From: FROM\r\n\r\n",
    "body of blank lines": "From: FROM\r\n\r\n\r\n\r\n\r\n",
    "trailing blank lines": "From: FROM\r\n\r\nhello\r\n\r\n\r\n",
    "trailing blanks": "From: FROM\r\n\r\nhello  \t \r\n  \r\nx",
    "dots": "From: FROM\r\n\r\n.\r\n..\r\n...x",
    "two subjects": "From: FROM\r\nSubject: ID\r\nSubject: two\r\n\r\nhello",
    "two dates": f"From: FROM\r\n{DATE}\r\n{DATE}\r\n\r\nhello",
    "empty date": "From: FROM\r\nDate:\r\n\r\nhello",
    "two To": "From: FROM\r\nTo: a@x.example\r\nTo: b@x.example\r\n\r\nhello",
    "To without a domain": "From: FROM\r\nTo: root, a@x.example\r\n\r\nhello",
    "To with a group": "From: FROM\r\nTo: undisclosed-recipients:;\r\n\r\nhello",
    "To with a name alone": "From: FROM\r\nTo: All of you\r\n\r\nhello",
    "odd To": 'From: FROM\r\nTo: "a\\"b, c" <d>, (e) f, g\\ , <h> (i), "j\r\n\r\nhello',
    "long To": "From: FROM\r\nTo: "
    + ",\r\n ".join(f"u{n}@x.example" for n in range(300))
    + "\r\n\r\nhi",
    "folded To": "From: FROM\r\nTo: a@x.example,\r\n\tb@x.example\r\n\r\nhello",
    "Bcc": "From: FROM\r\nBcc: secret@x.example,\r\n more@x.example\r\n\r\nhello",
    "Bcc with a blank": "From: FROM\r\nBcc : secret@x.example\r\n\r\nhello",
    "foreign sender": "From: FROM\r\nSender: ceo@example.com\r\n\r\nhello",
    "own sender": "From: FROM\r\nSender: FROM\r\n\r\nhello",
    "Reply-To": "From: FROM\r\nReply-To: x@elsewhere.example\r\n\r\nhello",
    "Message-ID": "From: FROM\r\nMessage-ID: <x@y>\r\n\r\nhello",
    "no Message-ID in it": "From: FROM\r\nMessage-ID:\r\n\r\nhello",
    "many fields": "".join(f"X-{n}: {n}\r\n" for n in range(2000)) + "From: FROM\r\n\r\nhello",
    "blank field line": "From: FROM\r\nSubject: ID\r\n \r\n more\r\n\r\nhello",
    "empty fields": "From: FROM\r\nX-Empty:\r\nCc:\r\n\r\nhello",
    "8 bit": "From: FROM\r\nSubject: ID é\r\n\r\né€\r\n",
    "long line": f"From: FROM\r\n\r\n{'x' * 990}\r\n",
    "form feed": "From: FROM\r\n\r\na\x0cb\r\n\x0c\r\n",
    "form feed in the header": "From: FROM\r\nReply-To: \x0ca@b.example\x0b\r\n\r\nhello",
    "encoded in quotes": 'From: "=?utf-8?q?<ceo@example.com>,?=" <FROM>\r\n\r\nhello',
    "encoded and sloppy": "From: =?utf-8?Q?J=C3=B6_M.,?= <FROM>\r\n\r\nhello",
    "To of many @": f"From: FROM\r\nTo: {'a@b@c,' * 40}(\r\n\r\nhello",
    "List": "From: FROM\r\nList-Unsubscribe: <mailto:x@y.example>\r\nList-Id: x\r\n\r\nhello",
    "Resent": "From: FROM\r\nResent-From: x@y.example\r\nResent-To: z@y.example\r\n\r\nhello",
    "signed already": "DKIM-Signature: v=1; d=example.com; b=x\r\nFrom: FROM\r\n\r\nhello",
    "multipart": (
        'From: FROM\r\nContent-Type: multipart/mixed; boundary="b"\r\nMIME-Version: 1.0\r\n\r\n'
        "--b\r\n\r\none\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>two\r\n--b--\r\n"
    ),
    "bare CR": "From: FROM\r\nSubject: a\rFrom: ceo@example.com\r\n\r\nhello",
    "bare CR in the text": "From: FROM\r\n\r\na\rb",
    "no field": "From: FROM\r\nno field\r\n\r\nhello",
    "blank in a name": "From: FROM\r\nX Y: z\r\n\r\nhello",
    "continued at once": " first\r\nFrom: FROM\r\n\r\nhello",
    "long name of a field": f"{'X' * 1500}: y\r\nFrom: FROM\r\n\r\nhello",
    "huge To": "From: FROM\r\nTo: " + ",\r\n ".join(["u@x.example"] * 8000) + "\r\n\r\nhello",
}
REFUSED = {
    *("bare CR", "bare CR in the text", "no field", "blank in a name"),
    *("long name of a field", "huge To"),
}


def shaped(shape, user, unique):
    """The message, with `unique` in its subject."""
    text = SHAPES[shape].replace("FROM", user)
    if "ID" in re.sub("Message-ID", "", text):
        text = re.sub(r"(?<!Message-)ID", unique, text)
    elif text.startswith(" "):
        text = text.replace("\r\n", f"\r\nSubject: {unique}\r\n", 1)
    elif shape not in ("two subjects", "mbox line"):
        text = f"Subject: {unique}\r\n{text}"
    else:
        text = text.replace("From: ", f"Subject: {unique}\r\nFrom: ", 1)
    return text
