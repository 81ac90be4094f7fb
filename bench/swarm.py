"""Minions without a machine: what a real one asked of its master in a run, asked by many.

    swarm.py record FILE FUNCTION     as salt-call does; each request and the second of it
    swarm.py play FILE NUMBER         NUMBER minions, until it is killed

It runs by the Python of a Salt that has a minion's configuration, and is real to the master: each
of them has a key, is subscribed, gets the jobs, fetches the pillar and asks after each file as the
real one did, in the same time or as fast as this machine can, and returns what that one returned.
Only the states are not run. With splay=SECONDS each begins at some time within these, as minions do
by their schedule.
"""

import asyncio
import fnmatch
import os
import pickle
import random
import sys
import time

import salt.channel.client
import salt.config
import salt.minion
import salt.scripts

CONFIG = "/etc/salt/minion"
Channel = salt.channel.client.AsyncReqChannel


def record(file, *arguments):
    """Run `salt-call ARGUMENTS`; write (second, method, load, arguments) of each request."""
    requests, start = [], time.monotonic()

    def spied(method):
        async def send(channel, load, *args, **kwargs):
            if channel.crypt == "aes":
                kept = {k: v for k, v in load.items() if k not in ("nonce", "ts", "tok", "sig")}
                entry = (time.monotonic() - start, method.__name__, kept, args, kwargs)
                requests.append(pickle.dumps(entry))
            return await method(channel, load, *args, **kwargs)

        return send

    for name in ("send", "crypted_transfer_decode_dictentry"):
        setattr(Channel, name, spied(getattr(Channel, name)))
    sys.argv = ["salt-call", "--out=quiet", *arguments]
    try:
        salt.scripts.salt_call()
    finally:
        with open(file, "wb") as out:
            pickle.dump([pickle.loads(entry) for entry in requests], out)


class Minion:
    """One of the swarm, subscribed to the master; all have the same key, each in its own name."""

    def __init__(self, name, options, requests):
        self.name, self.requests, self.running = name, requests, {}
        self.options = options | {"id": name}

    async def join(self):
        self.channel = Channel.factory(self.options)
        subscribed = salt.channel.client.AsyncPubChannel.factory(self.options)
        await subscribed.connect()
        subscribed.on_recv(self.told)

    async def told(self, payload):
        """A job was published: work at it beside what else is asked."""
        load = payload["load"]
        meant = load["tgt"]
        if isinstance(meant, str):
            meant = meant.split(",") if load.get("tgt_type") == "list" else [meant]
        if any(fnmatch.fnmatchcase(self.name, one) for one in meant):
            self.task = asyncio.ensure_future(self.work(load))

    async def work(self, load):
        answer = {"return": True, "retcode": 0, "success": True}
        if load["fun"] == "saltutil.find_job":
            answer["return"] = self.running.get(load["arg"][0], {})
        elif load["fun"] == "state.highstate":
            self.running[load["jid"]] = {"jid": load["jid"], "fun": load["fun"]}
            splay = [arg["splay"] for arg in load["arg"] if isinstance(arg, dict)]
            await asyncio.sleep(random.uniform(0, *splay) if splay else 0)
            answer = await self.play()
            del self.running[load["jid"]]
        told = {"fun": load["fun"], "fun_args": load["arg"], "jid": load["jid"]}
        await self.send("send", {"cmd": "_return"} | answer | told)

    async def play(self):
        """Ask what the real one asked, when it did; returns what that one returned."""
        start, first = time.monotonic(), self.requests[0][0]
        for second, method, load, args, kwargs in self.requests:
            if load.get("cmd") == "_return":
                return {key: load[key] for key in ("return", "retcode", "success") if key in load}
            await asyncio.sleep(max(0, second - first - (time.monotonic() - start)))
            await self.send(method, load, *args, **kwargs)
        raise RuntimeError("the recorded run has returned nothing")

    async def send(self, method, load, *args, **kwargs):
        kwargs = kwargs | {"timeout": 300}
        try:
            return await getattr(self.channel, method)(dict(load, id=self.name), *args, **kwargs)
        except Exception as exc:
            print(f"{self.name}: {load['cmd']}: {exc!r}", file=sys.stderr, flush=True)


async def swarm(file, number):
    """Start them, a few at a time, and say when all are there."""
    with open(file, "rb") as recorded:
        requests = pickle.load(recorded)
    options = dict(salt.config.minion_config(CONFIG))
    os.makedirs(options["pki_dir"], mode=0o700, exist_ok=True)
    options |= salt.minion.resolve_dns(options)
    options["master_uri"] = f"tcp://{options['master_ip']}:{options['master_port']}"
    minions = [Minion(f"sim{count}", options, requests) for count in range(number)]
    await minions[0].join()  # which makes the key
    for at in range(1, number, 20):
        await asyncio.gather(*(minion.join() for minion in minions[at : at + 20]))
    print("all there", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1] == "record":
        record(*sys.argv[2:])
    else:
        asyncio.run(swarm(sys.argv[2], int(sys.argv[3])))
