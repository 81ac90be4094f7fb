"""What administrators and programs call on a mail machine, as docs/clients.md has it."""

from wire import until

#: Says on the machine what it reads, line by line, each when the last one has been answered.
DIALOGUE = """
import subprocess, sys
end = subprocess.PIPE
talk = subprocess.Popen(sys.argv[1:], stdin=end, stdout=end, text=True)
for said in [*sys.stdin.read().split("--\\n"), ""]:
    while (line := talk.stdout.readline())[3:4] == "-": pass
    print(line, end="")
    talk.stdin.write(said.replace("\\n", "\\r\\n"))
    talk.stdin.flush()
talk.stdin.close()
print(talk.stdout.read(), talk.wait(5), end="")
"""
TALK = "EHLO x\n--\nMAIL FROM:<{0}>\n--\nRCPT TO:<{0}>\n--\nDATA\n--\n{1}.\n"


def commands_of_sendmail(server, late):
    """Call all of them on that server; `late` is a host that has no mail server yet."""
    machine, user = server.machine, next(iter(server.accounts))
    path = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

    def said(line, **options):
        ran = machine.run(line, check=False, env=path, timeout=30, **options)
        return ran.returncode, ran.stdout + ran.stderr

    def talk(text, *command):
        return said(["python3", "-c", DIALOGUE, *(command or ("sendmail", "-bs"))], input=text)

    aliases = machine.get("/etc/aliases")
    for line in "newaliases", "sendmail -bi":
        new = f"to-{len(line)}"
        machine.put("/etc/aliases", f"{aliases}{new}: {user}\n")
        assert said(["sendmail", new], input="Subject: x\n\nx\n")[0]
        assert said(line) == (0, "command succeeded\n")
        assert said(["sendmail", new], input=f"Subject: {new}\n\nx\n") == (0, "")
        server.wait(user, new)
    machine.put("/etc/aliases", aliases)
    assert said("newaliases")[0] == 0
    for line in "mailq", "sendmail -bp":
        assert said(line) == (0, "")
    for line in "sendmail -q", "sendmail -v -q15m":
        assert said(line) == (0, "0 envelope scheduled\n")
    for line in "mailq", "sendmail -q", "newaliases":
        status, text = said(["su", "-s", "/bin/sh", "nobody", "-c", f"/usr/local/*bin/{line}"])
        assert (status, "need root privileges" in text) == (1, True)

    mail = f"From: {user}\nTo: {user}\nSubject: {{}}\n\nbefore\n.\nafter\n"
    ways = [
        "sendmail -oi -oem -t",
        "/usr/lib/sendmail -oi -t",
        f"sendmail -ti -f {user}",
        f"sendmail -oi -f {user} -F q -- {user}",
        f"sendmail -f -q {user}",
    ]
    for line in ways:
        assert said(line, input=mail.format(line)) == (0, "")
    text = mail.format("in a dialogue").replace("\n.\n", "\n..\n")
    status, replies = talk(TALK.format(user, text) + "--\nQUIT\n")
    codes = [line[:3].strip() for line in replies.split("\n")]
    assert (status, codes) == (0, ["220", "250", "250", "250", "354", "250", "221", "0"])
    for line in [*ways, "in a dialogue"]:
        assert b"before\r\n.\r\nafter" in server.wait(user, line)

    # Who is nobody, too; nothing is sent before its end; what is refused is said.
    nobody = ["su", "-s", "/bin/sh", "nobody", "-c", "/usr/local/sbin/sendmail -bs -oem -i"]
    assert "221 2" in talk("QUIT\n", *nobody)[1]
    assert talk(TALK.format(user, mail.format("half"))[: -len(".\n")])[0] == 0
    assert "\n550 Invalid recipient" in talk(TALK.format("nosuch@" + user.split("@")[1], ""))[1]
    server.idle()
    assert not server.fetch(user, "half")

    somebody = "somebody@late.example"
    assert said(["sendmail", somebody], input=mail.format("late")) == (0, "")
    until(lambda: "Network error" in said("mailq")[1], 30, "it is not tried")
    assert somebody in said("mailq")[1]
    with late.sink() as sink:
        assert said("sendmail -q") == (0, "1 envelope scheduled\n")
        # A connection that smtpd opens and leaves without a word is followed by the next try.
        until(lambda: sink.messages or (said("sendmail -q") and False), 60, "it does not come")
    server.idle()
