"""A person at the console, in the browser: what no API token can do.

Usage: person.py URL CA-FILE enrol, with the token of an invitation on standard input: opens its
link, and sets a password with an authenticator app. person.py URL CA-FILE lock, with the name of a
user: somebody else gives wrong passwords of the user until they are locked out.
"""
import base64
import hashlib
import hmac
import html.parser
import http.cookiejar
import ssl
import struct
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

PASSWORD = "nine brown horses at the gate"
WRONG = 10  # wrong passwords lock a user out (docs/operations.md)


def totp(secret, at):
    """gives the code of an authenticator app (RFC 6238): HMAC-SHA-1, 30 seconds, six digits."""
    mac = hmac.digest(base64.b32decode(secret + "=" * (-len(secret) % 8)), struct.pack(">Q", int(at) // 30), hashlib.sha1)
    start = mac[-1] & 15
    return f"{(struct.unpack('>I', mac[start : start + 4])[0] & 0x7FFFFFFF) % 1_000_000:06d}"


class Page(html.parser.HTMLParser):
    """keeps the texts of a page by the tags and IDs in which they stand, and where its forms lead."""

    def __init__(self, text):
        super().__init__()
        self.inside, self.texts, self.actions = "", {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.inside = dict(attributes).get("id") or tag
        if tag == "form" and "action" in dict(attributes):
            self.actions.append(dict(attributes)["action"])

    def handle_data(self, data):
        if data.strip():
            self.texts.setdefault(self.inside, []).append(data.strip())


class Browser:
    """opens pages and sends forms as a browser does, with its cookies."""

    def __init__(self, url, ca):
        self.url = url
        self.cookies = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca)), urllib.request.HTTPCookieProcessor(self.cookies)
        )

    def open(self, path, form=None):
        """gives the status and the page at a path, or what a form answers with."""
        data = urllib.parse.urlencode(form).encode() if form else None
        request = urllib.request.Request(self.url + path, data, {"Origin": self.url, "Sec-Fetch-Site": "same-origin"} if form else {})
        try:
            with self.opener.open(request, timeout=60) as answer:
                return answer.status, Page(answer.read().decode())
        except urllib.error.HTTPError as refused:
            return refused.code, Page(refused.read().decode())


def enrol(url, ca, invitation):
    """enrols the person who was invited; an error says what the page did."""
    browser = Browser(url, ca)
    status, page = browser.open(f"/invitation/{invitation}")
    if status != 200 or "totp-secret" not in page.texts:
        return f"the invitation's page: {status} {page.texts.get('h1')}"
    [action] = [a for a in page.actions if a.endswith("/password")]
    secret = page.texts["totp-secret"][0].replace(" ", "")
    status, page = browser.open(action, {"password": PASSWORD, "code": totp(secret, time.time())})
    if status != 200 or page.texts.get("h1") != ["Recovery codes"]:
        return f"the password: {status} {page.texts}"
    status, page = browser.open("/")
    if status != 200 or page.texts.get("h1") == ["Sign in"]:
        return f"who has enrolled is not signed in: {status} {page.texts.get('h1')}"
    return None


def lock(url, ca, name):
    """has a stranger try passwords of a user."""
    for n in range(WRONG):
        status, page = Browser(url, ca).open("/signin", {"name": name, "password": PASSWORD[::-1], "code": "000000"})
        if status != 401:
            return f"wrong password {n + 1}: {status} {page.texts}"
    return None


if __name__ == "__main__":
    url, ca, act = sys.argv[1:]
    sys.exit({"enrol": enrol, "lock": lock}[act](url, ca, sys.stdin.read().strip()))
