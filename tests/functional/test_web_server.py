"""The web server of `web: true`: its files, its sites, and how it goes again."""

import json

SITE, DEFAULT = "/etc/nginx/sites-enabled/zz-mailsrv", "/etc/nginx/sites-enabled/default"
NGINX = (("nginx", "1.26.3-3+deb13u1"),)
PILLAR = "{domains: [a.example, b.example], mailsrv: {web: true, dns: {mta_sts: testing}}}"
ITSELF = {"tls": {"acme": {"email": "a@example.com"}}}


def of_the_room(machine, **mailsrv):
    low = machine.low("mailsrv.web", **mailsrv)
    return {chunk["__id__"]: chunk for chunk in low if chunk["__sls__"] == "mailsrv.web"}


def test_without_the_key_there_is_no_web_server(minion):
    machine = minion()
    assert {*of_the_room(machine)} == {"mailsrv-web-retired", "mailsrv-web-gone"}
    assert of_the_room(minion("FreeBSD")) == {}
    assert "nginx" not in json.dumps(machine.low("mailsrv.acme", **ITSELF))


def test_no_name_of_a_domain_is_in_what_nginx_reads(minion):
    """So none can be more than a name, be too long for its tables, or want a reload."""
    machine = minion(id="serves")
    text = machine.files("mailsrv.web", web=True)[SITE]
    one = machine.low("mailsrv.web", web=True)
    domains = machine("mailsrv.here")["model"]["domains"]
    assert not [d for d in domains if f"mta-sts.{d}" in text or f"autoconfig.{d}" in text]
    assert "sites-enabled/zz-mailsrv" in json.dumps(one)
    assert f"ssl_certificate /etc/mail/tls/{machine('mailsrv.here')['model']['hostname']}" in text


def test_the_page_of_a_new_nginx_is_never_seen_and_that_of_another_stays(minion):
    states = [*of_the_room(minion(id="new"), web=True)]
    assert states.index("mailsrv-web-default") < states.index("mailsrv-web-packages")
    old = minion(id="old", packages=NGINX)
    found = of_the_room(old, web=True)
    assert "mailsrv-web-default" not in found
    assert DEFAULT not in json.dumps(found["mailsrv-web-service"])
    assert DEFAULT not in json.dumps(of_the_room(old))


def test_what_is_served_is_what_the_command_says_and_nothing_else(minion, pillar):
    machine = minion(id="web-files", pillar=pillar(PILLAR))
    top = machine.at("/var/lib/mailsrv/web")

    def served(test=False):
        return machine.apply("mailsrv-web-files", test=test)

    planned = served(test=True)
    assert (planned["result"], top.exists()) == (None, False)
    assert served()["changes"] == planned["changes"]
    assert served()["changes"] == served(test=True)["changes"] == {}
    assert {
        f"https://{path.relative_to(top)}": path.read_bytes().decode()
        for path in top.rglob("*")
        if path.is_file()
    } == {url: text for files in machine("mailsrv.web").values() for url, text in files.items()}
    assert {path.stat().st_mode & 0o777 for path in top.rglob("*")} == {0o755, 0o644}
    # A domain that is gone, a file that was written by hand, one that a kill has left.
    policy = top / "mta-sts.a.example/.well-known/mta-sts.txt"
    policy.write_text("version: STSv1\n")
    gone = top / "mta-sts.gone.example/.well-known/mta-sts.txt"
    gone.parent.mkdir(parents=True)
    gone.write_text("")
    (left := policy.parent / ".mta-sts.txt.new").write_text("")
    assert served()["changes"] == {
        "written": [str(policy)],
        "deleted": sorted([str(gone), str(left)]),
    }
    assert not (top / "mta-sts.gone.example").exists()
    assert served()["changes"] == {}


def test_what_nginx_had_of_ours_goes_and_a_run_that_was_killed_is_repaired(minion):
    machine = minion(id="web-gone")
    site, record = machine.at(SITE), machine.at("/run/mailsrv/web")

    def retired(test=False):
        return machine.apply("mailsrv-web-retired", test=test)

    assert retired()["changes"] == {}
    for path in (site, record):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert (retired(test=True)["result"], site.exists()) == (None, True)
    assert retired()["changes"] == {"removed": [str(site)]}
    assert not site.exists()
    record.write_text("{}")  # killed before nginx was told
    assert retired()["changes"] == {"removed": [str(record)]}
    assert retired()["changes"] == {}


def test_a_run_that_drops_what_senders_hold_to_says_so(minion, pillar):
    dropping = minion(id="drops", pillar=pillar("{domains: [a.example], mailsrv: {web: true}}"))
    assert "mailsrv-web-dropped" not in of_the_room(dropping)
    policy = "mta-sts.a.example/.well-known/mta-sts.txt"
    for mode, warned in (("enforce", True), ("testing", False)):
        id, file = f"drops-{mode}", f"/var/lib/mailsrv/web/{policy}"
        for web in ("web: true", "web: false"):
            text = f"{{domains: [a.example], mailsrv: {{{web}}}}}"
            machine = minion(id=f"{id}-{web[5:]}", pillar=pillar(text))
            machine.at(file).parent.mkdir(parents=True)
            machine.at(file).write_text(f"version: STSv1\r\nmode: {mode}\r\nmax_age: 604800\r\n")
            assert ("mailsrv-web-dropped" in of_the_room(machine)) == warned
            if warned:
                for test in (True, False):
                    told = machine.apply("mailsrv-web-dropped", test=test)
                    assert (told["result"], told["changes"]) == (True, {})
                    assert told["warnings"][0].startswith("mailsrv:dns:mta_sts: enforce is taken")
                    assert told["comment"] in machine("mailsrv.lint")
