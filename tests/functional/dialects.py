"""
What the base utilities of FreeBSD understand, as far as it is known (the tables were not compared
with its manual pages one by one), and what in a text goes beyond it: options of GNU's, options
behind operands, regular expressions of GNU's.
"""

import re
import shlex

# Options as for getopt(3): a colon for one with an argument. getopt of FreeBSD ends at the first
# operand, where GNU's goes on.
OPTIONS = {
    "awk": "F:f:v:",
    "basename": "as:",
    "cat": "belnstuv",
    "chgrp": "HLPRfhnvx",
    "chmod": "HLPRfhv",
    "chown": "HLPRfhnvx",
    "cksum": "o:",
    "cmp": "bhi:lsxz",
    "cp": "HLNPRafilnprsvx",
    "cut": "b:c:d:f:nsw",
    "date": "I:Rf:jnr:uv:z:",
    "df": "abcghHiklmnPt:T,",
    "dirname": "",
    "echo": "n",
    "env": "0L:P:S:U:iu:v",
    "fold": "bsw:",
    "getent": "",
    "grep": "A:B:C:EFGHILORSUVabcd:e:f:hilm:noqrsvwxyz",
    "head": "c:n:qv",
    "hostname": "dfs",
    "id": "AGMPacdgnpru",
    "install": "B:CD:M:N:SU:T:bcdf:g:h:l:m:o:psv",
    "kill": "ls:",
    "ln": "FLPfhinsvw",
    "logger": "46AH:P:S:f:h:ip:st:",
    "ls": "1ABCD:FGHILPRSTUWZabcdfghiklmnopqrstuvwxy,",
    "mkdir": "m:pv",
    "mkfifo": "m:",
    "mktemp": "dp:qt:u",
    "mv": "fhinv",
    "nice": "n:",
    "od": "A:BDFHILN:OXabcdefhij:lost:vx",
    "ps": "CD:G:HJ:LM:N:O:STU:XZacdefhjlmo:p:rt:uvwx",
    "pwd": "LP",
    "readlink": "fn",
    "realpath": "q",
    "rm": "IPRWdfirvx",
    "rmdir": "pv",
    "sed": "EI:ae:f:i:lnru",
    "sleep": "",
    "sort": "CMRS:T:VZbcdfghik:mno:rst:uz",
    "stat": "FHLf:lnqrst:x",
    "su": "c:flms",
    "tail": "Fb:c:fn:qrv",
    "tee": "ai",
    "timeout": "fk:ps:v",
    "touch": "A:acd:fhmr:t:",
    "tr": "Ccdsu",
    "uname": "KUabimnoprsv",
    "uniq": "Dcdf:is:u",
    "wc": "Lclmw",
    "xargs": "0E:I:J:L:P:R:S:n:oprs:tx",
}
# Whose operands are a command, and how many come before it.
RUN = {"env": 0, "nice": 0, "timeout": 1, "xargs": 0}
FIND = """-H -L -P -E -X -d -f -s -x -acl -amin -anewer -atime -cmin -cnewer -ctime -delete -depth
    -empty -exec -execdir -flags -fstype -gid -group -ilname -iname -inum -ipath -iregex
    -iwholename -links -lname -ls -maxdepth -mindepth -mmin -mnewer -mount -mtime -name -newer
    -nogroup -noignore_readdir_race -noleaf -nouser -ok -okdir -path -perm -print -print0 -prune
    -quit -regex -samefile -size -sparse -true -false -type -uid -user -wholename -xattr -xdev -and
    -a -or -o -not"""
# Of Linux alone: neither in the base system nor in a package of the formula.
ABSENT = """apt apt-get chattr dpkg dpkg-query flock getcap ip iptables journalctl lsattr nft numfmt
    prlimit runuser setcap setpriv setsid shuf ss systemctl systemd-run tac unshare useradd
    usermod"""
# Where in a shell's text a command begins, and what it may be called by.
BEGIN = r"(?:['\"]|(?:^|[;&|({`!]|\$\(|\b(?:then|do|else|exec|if|while|until|root)\s)\s*)"
COMMAND = re.compile(
    rf"{BEGIN}(?:\w+=\S*\s+)*(?:/(?:usr/)?s?bin/)?(?P<name>[a-z][a-z-]*)"
    r"(?P<rest>(?=[\s;)'\"`]|$)[^\n]*)",
    re.MULTILINE,
)
# What a basic regular expression of POSIX does not have.
BASIC = re.compile(r"\\[+?|swSWbB<>`']")


def foreign(text):
    """What of a shell's text FreeBSD does not know, as sentences."""
    text = text.replace("\\\n", " ")
    if text.startswith("#!"):
        text = re.sub(r"(^|\s)#.*", r"\1", text, flags=re.MULTILINE)
    found, at = [], 0
    while match := COMMAND.search(text, at):
        at = match.start("rest")
        found += called([match["name"], *_words(match["rest"])])
    return found


def called(argv):
    """What of a command FreeBSD does not know, as sentences."""
    name, given = argv[0].rpartition("/")[2], list(argv[1:])
    if name in ABSENT.split():
        return [f"{name} is not there"]
    if name == "find":
        primaries = [
            word
            for before, word in zip(argv, given, strict=False)
            if re.match("-[a-zA-Z]", word) and before != "-perm"
        ]
        return [f"find {word}" for word in primaries if word not in FIND.split()]
    if name not in OPTIONS or name == "kill":
        return []
    options, found = _options(name, given)
    if name in RUN:
        return found + called(given[RUN[name] :]) if given[RUN[name] :] else found
    if name in ("grep", "sed") and not {"E", "F"} & {letter for letter, _ in options}:
        scripts = [value for letter, value in options if letter == "e"] or given[:1]
        found += [f"{name} {script}" for script in scripts if BASIC.search(script)]
    if name == "sed":
        # Without a suffix of its own, -i takes the script for it.
        suffixes = [value for letter, value in options if letter == "i"]
        found += [f"sed -i {text}" for text in suffixes if re.match(r"\.?\w*$", text) is None]
    if name != "echo":
        late = [word for word in given[1:] if re.match("-[A-Za-z-]", word)]
        found += [f"{name} {word} behind an operand" for word in late]
    return found


def _options(name, given):
    """Its options with their values, taken off what is given, and what is foreign."""
    options, found = [], []
    while given and given[0].startswith("-") and given[0] != "-":
        word = given.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            found.append(f"{name} {word}")
        elif not (name in ("head", "tail") and word[1:].isdigit()):
            for place, letter in enumerate(word[1:], 2):
                _, known, after = OPTIONS[name].partition(letter)
                if not known or letter == ":":
                    found.append(f"{name} -{letter}")
                elif after.startswith(":"):
                    options.append((letter, word[place:] or (given.pop(0) if given else "")))
                    break
                else:
                    options.append((letter, ""))
    return options, found


def _words(rest):
    """The words of one command: up to what ends it, or to the quote that it stands in."""
    for quote in ("'", '"'):
        if rest.count(quote) % 2:
            rest = rest.rpartition(quote)[0]
    lexer = shlex.shlex(rest, posix=True, punctuation_chars="();<>|&`")
    lexer.whitespace_split = True
    lexer.commenters = ""
    words = []
    try:
        for word in lexer:
            if re.fullmatch(r"[();<>|&`]+", word):
                break
            words.append(word)
    except ValueError:  # a quote that another one holds
        pass
    return words
