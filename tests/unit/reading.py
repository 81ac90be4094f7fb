"""Pillars as the core alone reads them: no loader, no machine."""

import copy
import functools
from pathlib import Path

import yaml
from _mailsrv import pillar, withdrawing
from _mailsrv.moving import records
from salt.modules import slsutil

ROOT = Path(__file__).parents[2]
STATES = ROOT / "salt_mailsrv/states/mailsrv"
FAMILIES = ("Debian", "FreeBSD")
HOST = "mx.example.com"
TODAY = "2027-02-28"
CANNOT_BAN = CANNOT_REMEMBER = ""


@functools.cache
def _data(name):
    return yaml.safe_load((STATES / f"{name}.yaml").read_text())


def system(family="Debian"):
    """What the formula knows of a system."""
    return slsutil.merge(copy.deepcopy(_data("defaults")), copy.deepcopy(_data("osmap")[family]))


def facts(
    family="Debian",
    today=TODAY,
    hostname="",
    accounts=(),
    blocked=(),
    policies=(),
    backup_for=(),
    signing=(),
    moving=(),
):
    """The same, with the date and what stands on the machine from the last run."""
    return {
        **system(family),
        "cannot_ban": CANNOT_BAN,
        "cannot_remember": CANNOT_REMEMBER,
        "cannot_search": "",
        "today": today,
        "standing": {
            "hostname": hostname,
            "accounts": [*accounts],
            "blocked": dict(blocked),
            "policies": withdrawing.standing(policies),
            "backup_for": dict(backup_for),
            "signing": [*signing],
            "moving": records(dict(moving)),
        },
    }


def read(given, fqdn=HOST, family="Debian", mined=None, primaries=None, **known):
    """The model of a pillar, and its faults."""
    return pillar.read(given, fqdn, facts(family, **known), mined, primaries)


def model(given, *arguments, **known):
    """The model of a valid pillar."""
    found, faults = read(given, *arguments, **known)
    assert faults == []
    return found


def faults(given, *arguments, **known):
    """What is wrong with a pillar."""
    return read(given, *arguments, **known)[1]


def said(text):
    """What is said of a pillar that has this beside a domain, YAML."""
    return "\n".join(faults({"salt": "pepper", "domains": ["example.com"], **yaml.safe_load(text)}))
