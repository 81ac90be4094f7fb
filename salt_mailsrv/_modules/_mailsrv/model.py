"""
The model: what a machine is made of, as :mod:`_mailsrv.pillar` reads it and the templates see it.
"""

from typing import TypedDict


class Sending(TypedDict):
    """To how many recipients somebody may write; 0: to any."""

    recipients_per_hour: int
    recipients_per_day: int


class Pattern(TypedDict):
    """An alias by pattern: see :mod:`_mailsrv.patterns`."""

    pattern: str
    regex: str
    domain: str
    targets: list[str]


Vacation = TypedDict(
    "Vacation",
    {
        "text": str,
        "subject": str,  # empty: Dovecot's
        "from": str,  # the first day, 2027-01-10, and the last; empty: none
        "until": str,
        "days": int,  # for which who was answered is not answered again
        "addresses": list[str],  # mail to which is answered
    },
)


class Account(TypedDict):
    """Who has a mailbox."""

    address: str
    quota: str | None  # as Dovecot reads it, 2G; None: the default of all
    senders: list[str]  # addresses, and @domain, that it may send as
    limits: Sending
    vacation: Vacation | None  # what is answered to who writes to it; None: nothing


class Key(TypedDict):
    """A DKIM key: see :mod:`_mailsrv.keys`."""

    domains: list[str]  # whose mail it signs
    selector: str
    algorithm: str  # rsa or ed25519
    private: str  # files
    public: str
    bare: str
    adopt: list[str]
    signing: str
    adopt_signing: list[str]
    waits: bool  # for its record in DNS, before it signs for the first time
    revoked: list[str]


class Archive(TypedDict):
    """Where DKIMproxy comes from, and where it stands."""

    source: str
    source_hash: str
    directory: str


class Dkim(TypedDict):
    """Who signs, under which selector, with which keys."""

    signer: str
    selector: str
    bits: int
    revoked: list[str]
    ed25519: bool
    archive: Archive
    keys: list[Key]


class Acme(TypedDict):
    """A certificate that comes by itself: see :mod:`_mailsrv.acme`."""

    email: str  # whom the CA writes to
    server: str  # the URL of its directory
    challenge: str
    key: str  # rsa or ecdsa
    ca: str  # a file with the certificates that it is verified with; empty: the system's
    caa: str  # what it is called in CAA records; empty: that is not known
    provider: str  # of DNS, as lego calls it; empty: none is needed
    next: str  # the files of the next key, without .key


class Tls(TypedDict):
    """The certificate: files that daemons read, and where a copy comes from."""

    cert: str
    key: str
    self_signed: bool
    sources: dict[str, str]  # by cert and key; empty: made here
    acme: Acme | None


class Dmarc(TypedDict):
    """What receivers do with mail that claims to be ours and is not."""

    policy: str
    reports: str | None  # the address for them


class Dns(TypedDict):
    """What the records say."""

    spf: list[str]
    dmarc: Dmarc
    tls_reports: str | None
    web: str | None
    mta_sts: str | None  # none: it is being taken back
    dropped: str  # why that is too early, a sentence
    dane: bool
    addresses: list[str]
    nameservers: list[str]
    skip: list[list[str]]  # [name, type], either of them may be empty
    closed: list[str] | None  # networks that may use our senders; None: anybody may


class Srs(TypedDict):
    """What the senders of forwarded mail are rewritten with."""

    key: str  # its name, which is not the key; empty: the first one


class Limits(TypedDict):
    """What one session, message or user may have."""

    message_size: str  # as Dovecot reads it, 50M
    messages: int
    recipients: int
    connections: int
    recipients_per_hour: int  # of an account
    recipients_per_day: int
    satellite_recipients_per_hour: int
    satellite_recipients_per_day: int


class Bans(TypedDict):
    """When a network is refused for a while, because of wrong passwords; in seconds."""

    own: list[str]  # networks that never are
    after: int  # wrong ones
    within: int
    lasts: int  # the first time
    longest: int  # at most, however often it comes back
    ports: list[int]


class Passwords(TypedDict):
    """How passwords are hashed."""

    rounds: int


class Logs(TypedDict):
    """How the log is kept."""

    keep: int  # days; 0: as the system does it


class Satellite(TypedDict):
    """A machine that sends through this one."""

    name: str
    signed_by: str
    aligned: bool  # whether that counts for its own name (DMARC)
    limits: Sending


class Way(TypedDict):
    """A server that mail is handed to; its login stands in the pillar alone."""

    label: str
    at: str  # where it stands there
    host: str
    port: int
    tls: str  # starttls or smtps
    login: bool
    ca: str  # a file with the certificates that its own is verified with; empty: the system's
    spf: str  # the name to include; may be empty


class Relay(TypedDict):
    """By which ways mail leaves, each by its label; empty: to the MX of the recipient's domain."""

    ways: list[Way]
    default: str
    senders: dict[str, str]  # by domain
    recipients: dict[str, str]  # by domain; before those of senders
    tls_required: list[str]  # domains that mail leaves to by verified TLS, or not at all


class Backup(TypedDict):
    """A machine that takes our mail while we are away."""

    name: str
    addresses: list[str]


class Recipients(TypedDict):
    """Names of a primary by pattern."""

    domain: str
    regex: str


class Primary(TypedDict):
    """A machine that we take mail for while it is away, as it has published itself."""

    minion: str  # its id
    hostname: str  # empty: nothing is known of it yet
    message_size: str
    certificate: str  # PEM, where it is self-signed
    closed: list[str] | None  # networks that may use its senders; None: anybody may
    domains: dict[str, list[str]]  # the local parts of each; empty: all; with a star: a pattern
    patterns: list[Recipients]
    unknown: list[str]  # domains that it has published nothing of


class Move(TypedDict):
    """A domain that moves between this machine and another: see :mod:`_mailsrv.moving`."""

    domain: str
    way: str  # to or from another machine
    peer: str  # the id of that one's minion
    phase: str  # here, frozen, gone, or waiting
    copied: list[str]  # whose mailboxes here were begun as copies; others have to be empty
    addresses: list[str]  # those that the peer hands on late mail from
    hostname: str  # of the peer, once it has gone there
    certificate: str  # the peer's, PEM, where it is self-signed
    accounts: list[str]  # its addresses, whoever has it now
    recipients: list[str]  # the local parts that get mail there


class Search(TypedDict):
    """What is indexed beside the text of mail."""

    attachments: bool


class Senders(TypedDict):
    """Who sends, by what is known of him."""

    addresses: list[str]
    domains: list[str]
    networks: list[str]


class SpamFilter(TypedDict):
    """What is done with mail from outside."""

    learn: bool  # from what is put into Junk and out of it
    greylist: bool
    reputation: bool
    thresholds: dict[str, float]  # points by action, those of the pillar alone; 0: never
    allow: Senders
    block: Senders


class Model(TypedDict):
    """All that a mail server is made of."""

    hostname: str
    domains: list[str]
    accounts: list[Account]
    removed: list[str]  # accounts of the machine that are gone from the pillar
    aliases: dict[str, list[str]]  # catch-alls last
    patterns: list[Pattern]  # of which the first one counts
    moved: dict[str, str]  # by each domain that has another name now, that one
    subaddress: str
    quota: str | None
    quota_warning: int
    expire: dict[str, int]  # by mailbox, days
    sieve: str
    srs: Srs
    tls: Tls
    dkim: Dkim
    dns: Dns
    spam_filter: SpamFilter | None  # None: mail from outside is taken as it is
    rspamd: bool  # whether it runs, as filter or signer
    redis: bool  # whether that remembers something
    learns: bool  # whether users teach it
    abandon_queue: bool
    limits: Limits
    bans: Bans | None  # None: nobody is banned
    blocked: list[str]  # accounts and satellites that neither log in nor send
    passwords: Passwords
    logs: Logs
    satellites: list[Satellite]
    notify: list[str]  # who is told by mail what changes
    metrics: bool  # whether this machine can be watched by Prometheus
    search: Search | None  # None: a search reads all mail
    web: bool  # whether it serves the files of mailsrv.web itself
    relay: Relay
    has_fleet: bool  # whether they come from the mine
    backup: list[Backup]
    backup_for: list[Primary]  # and where a domain has gone to
    moves: list[Move]
    copied: list[Account]  # those of a domain that is to come: nobody logs in
    notes: list[str]  # what is valid and worth knowing


class Sender(TypedDict):
    """All that a machine that only sends is made of."""

    name: str
    relay: str  # the mail machine
    minion: str  # its id
    root: str  # who reads root's mail
    agent: str  # opensmtpd or dma
    ca: str  # the file with the certificates that the relay's is verified with; empty: the system's
    ca_source: str  # where that comes from on the file server; empty: it does not
