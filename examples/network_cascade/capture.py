"""A network capture that is made up: flows of nine classes, five of them attacks. A seed always gives the same one.

A flow is what two endpoints of the network say to each other: all packets of one 5-tuple (both addresses, both ports,
the protocol). The sensor looks at its first 20 packets. Of each it notes four numbers: the bytes of the packet, the
direction (1 from the client, -1 from the server), the microseconds since the packet before, and the TCP flags.

What is normal:

- web: TCP to port 443 or 80. A handshake, the keys of TLS, then small requests and large answers, with pauses of up to
  some seconds. One in 12 is a page that stays open and asks for news at regular times. One in 40 gets no further than
  the handshake, as its client has gone.
- dns: UDP to port 53. A query of 55 to 90 bytes and its answer, once or twice. One in 8 asks for a long name, as mail
  servers do: up to 180 bytes.
- video: port 443, half of it over UDP. A request, then full packets of the server's, at an even pace.
- ssh: TCP to port 22. The keys, a login, then the keystrokes of a person: small packets at uneven times. One in 5
  mistypes the password first; another one in 5 is a script that does not pause.

What is an attack:

- port scan: a SYN to any port. It is refused (RST), ignored, or answered, and then dropped by an RST of the client's.
- syn flood: a SYN to a web server, from a forged address. Nobody is there to take up the answer (SYN, ACK), so the
  server repeats it after one second, then two.
- ssh brute force: a program that tries passwords. The server is slow to say no: 1.5 to 2.5 s each time.
- dns exfiltration: data that leaves in the names of queries, several in a row: 90 to 250 bytes and short answers. One
  in 4 takes its time, and hides in shorter names.
- beaconing: malware that calls home by TLS, at regular times and with next to nothing to say.

Where they overlap: a flood and a web client that has gone; a flood and a scan that meets an open port; a brute force
and a person who mistypes; an exfiltration and a query of a mail server; a beacon and a page that asks for news. The
first packets of some pairs do not differ at all: only later ones do.
"""

import hashlib
from typing import NamedTuple

import numpy as np

from edgeserve.gates import array_in, array_out, msgpack_in, msgpack_out

PACKETS = 20  # of each flow
FLOWS = 1200  # of a capture
LIVE, TRAINING, LABELLED = (
    1,
    2,
    3,
)  # seeds: what the sensor sees, what models learn from, what the threshold is chosen on
LENGTH_S = 240  # flows begin within this time
SHARES = {
    "web": 0.34,
    "dns": 0.24,
    "video": 0.08,
    "ssh": 0.07,
    "port scan": 0.09,
    "syn flood": 0.07,
    "ssh brute force": 0.04,
    "dns exfiltration": 0.04,
    "beaconing": 0.03,
}
ATTACKS = frozenset(list(SHARES)[4:])

TCP, UDP = 6, 17
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
SYN_ACK, DATA = SYN | ACK, PSH | ACK


class Flow(NamedTuple):
    """What the sensor sees of a flow, and what it really is.

    The client's and the server's address and port, the protocol; the packets, an array with a row of four numbers for
    each; the class; and when the last of these packets came, in ms since the capture began.
    """

    client: str
    client_port: int
    server: str
    server_port: int
    protocol: int
    packets: np.ndarray
    label: str
    seen_ms: float


def flow_id(flow):
    """16 bytes for the 5-tuple. NULs at the end of a flow id count as padding, so they are not part of it here."""
    return hashlib.blake2b(repr(flow[:5]).encode(), digest_size=16).digest().rstrip(b"\0")


def pack(flow):
    """What travels of a flow, as bytes: protocol, port and packets. What it really is does not."""
    return msgpack_out([flow.protocol, flow.server_port, array_out(flow.packets)])


def unpack(payload):
    """What `pack` made: (protocol, port, packets)."""
    protocol, port, packets = msgpack_in(payload)
    return protocol, port, array_in(packets)


def capture(seed, flows=FLOWS):
    """A capture, in the order in which a sensor has seen enough of each flow."""
    dice = np.random.default_rng(seed)
    labels = dice.choice(list(SHARES), size=flows, p=list(SHARES.values()))
    made = {}
    for label in labels:
        flow = _flow(dice, str(label))
        while flow_id(flow) in made:  # there is one flow of a 5-tuple
            flow = _flow(dice, str(label))
        made[flow_id(flow)] = flow
    return sorted(made.values(), key=lambda flow: flow.seen_ms)


def _flow(dice, label):
    talk = _Talk(dice)
    protocol, port = _CLASSES[label](talk, dice)
    packets = np.array(talk.packets[:PACKETS], dtype=np.int32)
    start_ms = dice.uniform(0, LENGTH_S * 1000)
    network = "198.51.100" if label in {"port scan", "syn flood", "ssh brute force"} else "10.0.0"
    return Flow(
        client=f"{network}.{dice.integers(1, 255)}",
        client_port=int(dice.integers(1024, 65536)),
        server=f"192.0.2.{dice.integers(1, 255)}",
        server_port=int(port),
        protocol=protocol,
        packets=packets,
        label=label,
        seen_ms=start_ms + packets[:, 2].sum() / 1000,
    )


class _Talk:
    """Writes down packets, one after the other."""

    def __init__(self, dice):
        self._dice = dice
        self._round_trip_ms = dice.lognormal(3.3, 0.6)  # a median of 27 ms
        self.packets = []

    def client(self, size, flags=0, after_ms=0.5):
        self._note(size, 1, flags, after_ms)

    def server(self, size, flags=0, after_ms=None):
        self._note(size, -1, flags, self._round_trip_ms if after_ms is None else after_ms)

    def _note(self, size, direction, flags, after_ms):
        jitter = self._dice.uniform(0.9, 1.1)
        gap_us = int(1000 * after_ms * jitter) if self.packets else 0
        self.packets.append((min(int(size), 1500), direction, gap_us, flags))

    def handshake(self):
        self.client(60, SYN)
        self.server(60, SYN_ACK)
        self.client(52, ACK)

    def tls(self):
        self.client(self._dice.integers(300, 700), DATA)
        self.server(1500, ACK)
        self.server(self._dice.integers(600, 1500), DATA, after_ms=0.3)
        self.client(self._dice.integers(110, 140), DATA)

    def ssh_keys(self):
        for size in (73, self._dice.integers(1000, 1400), 100):  # who is there, what each can do, the keys
            self.client(size, DATA)
            self.server(size + self._dice.integers(0, 40), DATA)

    def news(self, period_ms, request, answer, jitter):
        """Ask for news at regular times."""
        while len(self.packets) < PACKETS:
            self.client(self._dice.normal(request, jitter), DATA, after_ms=period_ms)
            self.server(self._dice.normal(answer, jitter), DATA)


def _web(talk, dice):
    port = dice.choice([443, 80], p=[0.85, 0.15])
    if dice.random() < 1 / 40:
        return _unanswered(talk, port, again=dice.integers(0, 3))
    talk.handshake()
    if port == 443:
        talk.tls()
    if dice.random() < 1 / 12:
        talk.news(dice.uniform(3000, 12_000), request=dice.uniform(200, 500), answer=dice.uniform(150, 900), jitter=40)
    for _ in range(dice.integers(1, 6)):
        talk.client(dice.integers(80, 700), DATA, after_ms=dice.exponential(400))
        for _ in range(dice.geometric(0.3)):
            talk.server(dice.choice([1500, dice.integers(100, 1500)], p=[0.7, 0.3]), DATA, after_ms=dice.exponential(8))
    return TCP, port


def _dns(talk, dice):
    for _ in range(dice.integers(1, 3)):
        is_long = dice.random() < 1 / 8
        query = dice.integers(90, 180) if is_long else dice.integers(55, 90)
        talk.client(query, after_ms=dice.exponential(30))
        talk.server(query + dice.integers(16, 400 if is_long else 200))
    return UDP, 53


def _video(talk, dice):
    protocol = dice.choice([TCP, UDP])
    flags = DATA if protocol == TCP else 0
    if protocol == TCP:
        talk.handshake()
        talk.tls()
    else:
        talk.client(1280)
        talk.server(1280)
    talk.client(dice.integers(200, 700), flags)
    pace_ms = dice.uniform(1, 12)
    while len(talk.packets) < PACKETS:
        talk.server(1500, flags, after_ms=pace_ms)
    return int(protocol), 443


def _ssh(talk, dice):
    talk.handshake()
    talk.ssh_keys()
    kind = dice.choice(["person", "mistypes", "script"], p=[0.6, 0.2, 0.2])
    if kind == "mistypes":
        _try_password(talk, dice, after_ms=dice.uniform(2000, 6000))
    while len(talk.packets) < PACKETS:
        talk.client(dice.integers(84, 150), DATA, after_ms=1 if kind == "script" else dice.lognormal(5, 0.8))
        talk.server(dice.integers(84, 400), DATA)
    return TCP, 22


def _port_scan(talk, dice):
    port = dice.choice([dice.integers(1, 10_000), 443, 80, 22, 53], p=[0.8, 0.05, 0.05, 0.05, 0.05])
    talk.client(dice.choice([44, 60]), SYN)
    answer = dice.choice(["refused", "ignored", "open"], p=[0.6, 0.25, 0.15])
    if answer == "refused":
        talk.server(40, RST | ACK)
    elif answer == "open":
        talk.server(44, SYN_ACK)
        talk.client(40, RST)
    return TCP, port


def _syn_flood(talk, dice):
    return _unanswered(talk, dice.choice([443, 80]), again=dice.integers(0, 4), size=dice.choice([40, 44, 60]))


def _unanswered(talk, port, again, size=60):
    """A handshake that the client does not end: the server repeats its part."""
    talk.client(size, SYN)
    talk.server(size, SYN_ACK)
    for number in range(again):
        talk.server(size, SYN_ACK, after_ms=1000 * 2**number)
    return TCP, port


def _ssh_brute_force(talk, dice):
    talk.handshake()
    talk.ssh_keys()
    for _ in range(dice.integers(1, 7)):
        _try_password(talk, dice, after_ms=dice.uniform(1, 20))
    talk.client(52, FIN | ACK)
    return TCP, 22


def _try_password(talk, dice, after_ms):
    """A login that fails. Passwords are padded, so that their lengths don't show."""
    talk.client(dice.choice([132, 148]), DATA, after_ms=after_ms)
    talk.server(dice.choice([84, 100]), DATA, after_ms=dice.uniform(1500, 2500))


def _dns_exfiltration(talk, dice):
    is_slow = dice.random() < 0.25
    for _ in range(dice.integers(1, 5) if is_slow else dice.integers(2, 10)):
        query = dice.integers(90, 150) if is_slow else dice.integers(120, 250)
        talk.client(query, after_ms=dice.uniform(800, 3000) if is_slow else dice.exponential(20))
        talk.server(query + dice.integers(16, 60))
    return UDP, 53


def _beaconing(talk, dice):
    talk.handshake()
    talk.tls()
    talk.news(dice.uniform(2000, 10_000), request=dice.uniform(150, 300), answer=dice.uniform(100, 250), jitter=10)
    return TCP, 443


_CLASSES = {
    "web": _web,
    "dns": _dns,
    "video": _video,
    "ssh": _ssh,
    "port scan": _port_scan,
    "syn flood": _syn_flood,
    "ssh brute force": _ssh_brute_force,
    "dns exfiltration": _dns_exfiltration,
    "beaconing": _beaconing,
}
