//! Malformed and smuggling requests: the verdict on each, and what the endpoint received.
//!
//! The endpoint keeps its connections, as a real one does, so that bytes left over by one request
//! would be read as the next one. After each case a plain request must get its own answer.

use std::time::Duration;

use crate::support::http1::whole_requests;
use crate::support::{Failure, Gw, Origin, route};

use Expect::{Cut, CutOrPassed, Either, Passed, Refused, RefusedAs};

/// What must happen to a request.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// 400, closed; the endpoint got nothing.
    Refused,
    /// One of these, closed; the endpoint got nothing.
    RefusedAs(&'static [u16]),
    /// 200; the endpoint got exactly one well-formed request.
    Passed,
    /// The standard leaves it open: as `Refused`, or as `Passed`.
    Either,
    /// The head is fine, the body is not: the endpoint never got a whole request.
    Cut,
    /// As `Cut`, or as `Passed` when the gateway wrote it anew without the flaw.
    CutOrPassed,
}

/// Name, section of the standard (RFC 9112 unless it says otherwise), bytes, verdict.
type Case = (&'static str, &'static str, &'static [u8], Expect);

const START_LINE: &[Case] = &[
    (
        "every line ends in a bare LF",
        "2.2",
        b"GET / HTTP/1.1\nHost: gateway.test\n\n",
        Refused,
    ),
    (
        "request line ends in a bare LF",
        "2.2",
        b"GET / HTTP/1.1\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "bare CR in the target",
        "2.2",
        b"GET /a\rb HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "request line ends in a bare CR",
        "2.2",
        b"GET / HTTP/1.1\rHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "empty lines before the request line",
        "2.2",
        b"\r\n\r\nGET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Either,
    ),
    (
        "space before the method",
        "3",
        b" GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "two spaces before the target",
        "3",
        b"GET  / HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Either,
    ),
    (
        "two spaces before the version",
        "3",
        b"GET /  HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Either,
    ),
    (
        "tabs as separators",
        "3",
        b"GET\t/\tHTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Either,
    ),
    (
        "something after the version",
        "3",
        b"GET / HTTP/1.1 x\r\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "no target",
        "3",
        b"GET HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "nothing but a method",
        "3",
        b"GET\r\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "method is not a token",
        "RFC 9110 9.1",
        b"G(T / HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "method has a NUL",
        "RFC 9110 9.1",
        b"GE\0T / HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "method in lower case",
        "RFC 9110 9.1",
        b"get / HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Either,
    ),
    (
        "space in the target",
        "3.2",
        b"GET /a b HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "NUL in the target",
        "3.2",
        b"GET /a\0b HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "control byte in the target",
        "3.2",
        b"GET /a\x01b HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "DEL in the target",
        "3.2",
        b"GET /a\x7fb HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "bytes above ASCII in the target",
        "3.2",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Either,
    ),
    (
        "fragment in the target",
        "3.2",
        b"GET /a#b HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "target without a slash",
        "3.2.1",
        b"GET a HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "asterisk with GET",
        "3.2.4",
        b"GET * HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "absolute form with another Host",
        "3.2.2",
        b"GET http://other.test/ HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "absolute form with another port",
        "3.2.2",
        b"GET http://gateway.test:81/ HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "absolute form with the same Host",
        "3.2.2",
        b"GET http://gateway.test/ HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Passed,
    ),
    (
        "absolute form without a Host field",
        "3.2",
        b"GET http://gateway.test/ HTTP/1.1\r\n\r\n",
        Refused,
    ),
    (
        "absolute form with a user",
        "RFC 9110 4.2.4",
        b"GET http://user@gateway.test/ HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "absolute form without a host",
        "RFC 9110 4.2.1",
        b"GET http:///x HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "absolute form of another scheme",
        "3.2.2",
        b"GET ftp://gateway.test/ HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        Either,
    ),
    (
        "CONNECT",
        "RFC 9110 9.3.6",
        b"CONNECT gateway.test:443 HTTP/1.1\r\nHost: gateway.test:443\r\n\r\n",
        RefusedAs(&[400, 405, 501]),
    ),
    (
        "CONNECT with a path",
        "3.2.3",
        b"CONNECT / HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        RefusedAs(&[400, 405, 501]),
    ),
    (
        "no version",
        "2.3",
        b"GET /\r\nHost: gateway.test\r\n\r\n",
        RefusedAs(&[400, 505]),
    ),
    (
        "HTTP/0.9",
        "2.3",
        b"GET / HTTP/0.9\r\nHost: gateway.test\r\n\r\n",
        RefusedAs(&[400, 505]),
    ),
    (
        "HTTP/1.2",
        "2.3",
        b"GET / HTTP/1.2\r\nHost: gateway.test\r\n\r\n",
        RefusedAs(&[400, 505]),
    ),
    (
        "HTTP/2.0",
        "2.3",
        b"GET / HTTP/2.0\r\nHost: gateway.test\r\n\r\n",
        RefusedAs(&[400, 505]),
    ),
    (
        "HTTP/1.10",
        "2.3",
        b"GET / HTTP/1.10\r\nHost: gateway.test\r\n\r\n",
        RefusedAs(&[400, 505]),
    ),
    (
        "HTTP/01.1",
        "2.3",
        b"GET / HTTP/01.1\r\nHost: gateway.test\r\n\r\n",
        RefusedAs(&[400, 505]),
    ),
    (
        "version in lower case",
        "2.3",
        b"GET / http/1.1\r\nHost: gateway.test\r\n\r\n",
        RefusedAs(&[400, 505]),
    ),
    (
        "another protocol's version",
        "2.3",
        b"GET / ICY/1.1\r\nHost: gateway.test\r\n\r\n",
        RefusedAs(&[400, 505]),
    ),
    (
        "HTTP/2 preface",
        "RFC 9113 3.4",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        RefusedAs(&[400, 505]),
    ),
    (
        "TLS ClientHello",
        "RFC 8446 5.1",
        b"\x16\x03\x01\x00\x2c\x01\x00\x00\x28\x03\x03\r\n\r\n",
        Refused,
    ),
];

const FIELDS: &[Case] = &[
    ("field ends in a bare LF", "2.2", b"GET / HTTP/1.1\r\nHost: gateway.test\nX-A: b\r\n\r\n", Refused),
    ("head ends in bare LFs", "2.2", b"GET / HTTP/1.1\r\nHost: gateway.test\n\n", Refused),
    ("head ends in CRLF LF", "2.2", b"GET / HTTP/1.1\r\nHost: gateway.test\r\n\nX-A: b\r\n\r\n", Refused),
    ("bare CR in a value", "2.2", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nX-A: b\rX-B: c\r\n\r\n", Refused),
    ("bare CR before CRLF", "2.2", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nX-A: b\r\r\n\r\n", Refused),
    ("line fold with a space", "5.2", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nX-A: b\r\n c\r\n\r\n", Refused),
    ("line fold with a tab", "5.2", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nX-A: b\r\n\tc\r\n\r\n", Refused),
    ("line fold hides a coding", "5.2", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", Refused),
    ("space before the first field", "2.2", b"GET / HTTP/1.1\r\n Host: gateway.test\r\n\r\n", Refused),
    ("line of a single space", "2.2", b"GET / HTTP/1.1\r\nHost: gateway.test\r\n \r\n\r\n", Refused),
    ("space before the colon", "5.1", b"GET / HTTP/1.1\r\nHost : gateway.test\r\n\r\n", Refused),
    ("tab before the colon", "5.1", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nX-A\t: b\r\n\r\n", Refused),
    ("no name", "5", b"GET / HTTP/1.1\r\nHost: gateway.test\r\n: b\r\n\r\n", Refused),
    ("no colon", "5", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nX-A\r\n\r\n", Refused),
    ("space in a name", "RFC 9110 5.1", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nX A: b\r\n\r\n", Refused),
    ("separator in a name", "RFC 9110 5.1", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nX(A): b\r\n\r\n", Refused),
    ("NUL in a name", "RFC 9110 5.1", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nX\0A: b\r\n\r\n", Refused),
    ("byte above ASCII in a name", "RFC 9110 5.1", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nX\xe9A: b\r\n\r\n", Refused),
    ("NUL in a value", "RFC 9110 5.5", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nX-A: b\0c\r\n\r\n", Refused),
    ("control byte in a value", "RFC 9110 5.5", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nX-A: b\x01c\r\n\r\n", Refused),
    ("vertical tab in a value", "RFC 9110 5.5", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nX-A: b\x0bc\r\n\r\n", Refused),
    ("DEL in a value", "RFC 9110 5.5", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nX-A: b\x7fc\r\n\r\n", Refused),
    ("tab in a value", "RFC 9110 5.5", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nX-A: b\tc\r\n\r\n", Passed),
    ("bytes above ASCII in a value", "RFC 9110 5.5", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nX-A: \xc3\xa9\r\n\r\n", Either),
    ("empty value", "RFC 9110 5.5", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nX-A:\r\n\r\n", Passed),
    ("expectation that nobody knows", "RFC 9110 10.1.1", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nExpect: tea\r\n\r\n", Either),
    ("upgrade to clear HTTP/2", "RFC 9113 3.1", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", Passed),
];

const HOST: &[Case] = &[
    (
        "no Host",
        "3.2",
        b"GET / HTTP/1.1\r\nX-A: b\r\n\r\n",
        Refused,
    ),
    ("no field at all", "3.2", b"GET / HTTP/1.1\r\n\r\n", Refused),
    (
        "two different Hosts",
        "3.2",
        b"GET / HTTP/1.1\r\nHost: gateway.test\r\nHost: other.test\r\n\r\n",
        Refused,
    ),
    (
        "two equal Hosts",
        "3.2",
        b"GET / HTTP/1.1\r\nHost: gateway.test\r\nHost: gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "empty Host",
        "3.2",
        b"GET / HTTP/1.1\r\nHost: \r\n\r\n",
        Refused,
    ),
    (
        "space in Host",
        "3.2",
        b"GET / HTTP/1.1\r\nHost: gateway test\r\n\r\n",
        Refused,
    ),
    (
        "two names in one Host",
        "3.2",
        b"GET / HTTP/1.1\r\nHost: gateway.test, other.test\r\n\r\n",
        Refused,
    ),
    (
        "path in Host",
        "RFC 9110 7.2",
        b"GET / HTTP/1.1\r\nHost: gateway.test/x\r\n\r\n",
        Refused,
    ),
    (
        "query in Host",
        "RFC 9110 7.2",
        b"GET / HTTP/1.1\r\nHost: gateway.test?x\r\n\r\n",
        Refused,
    ),
    (
        "fragment in Host",
        "RFC 9110 7.2",
        b"GET / HTTP/1.1\r\nHost: gateway.test#x\r\n\r\n",
        Refused,
    ),
    (
        "user in Host",
        "RFC 9110 7.2",
        b"GET / HTTP/1.1\r\nHost: user@gateway.test\r\n\r\n",
        Refused,
    ),
    (
        "backslash in Host",
        "RFC 9110 7.2",
        b"GET / HTTP/1.1\r\nHost: gateway.test\\x\r\n\r\n",
        Refused,
    ),
    (
        "markup in Host",
        "RFC 9110 7.2",
        b"GET / HTTP/1.1\r\nHost: <gateway.test>\r\n\r\n",
        Refused,
    ),
    (
        "byte above ASCII in Host",
        "RFC 9110 7.2",
        b"GET / HTTP/1.1\r\nHost: g\xe4teway.test\r\n\r\n",
        Refused,
    ),
    (
        "port is not a number",
        "RFC 3986 3.2.3",
        b"GET / HTTP/1.1\r\nHost: gateway.test:http\r\n\r\n",
        Refused,
    ),
    (
        "two ports",
        "RFC 3986 3.2.3",
        b"GET / HTTP/1.1\r\nHost: gateway.test:80:80\r\n\r\n",
        Refused,
    ),
    (
        "port beyond all ports",
        "RFC 3986 3.2.3",
        b"GET / HTTP/1.1\r\nHost: gateway.test:99999\r\n\r\n",
        Either,
    ),
    (
        "bracket without an end",
        "RFC 3986 3.2.2",
        b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        Refused,
    ),
    (
        "name in brackets",
        "RFC 3986 3.2.2",
        b"GET / HTTP/1.1\r\nHost: [gateway.test]\r\n\r\n",
        Refused,
    ),
    (
        "escape without digits in Host",
        "RFC 3986 2.1",
        b"GET / HTTP/1.1\r\nHost: gateway%zz\r\n\r\n",
        Refused,
    ),
    (
        "address of version 6",
        "RFC 3986 3.2.2",
        b"GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n",
        Passed,
    ),
    (
        "HTTP/1.0 without Host",
        "3.2",
        b"GET / HTTP/1.0\r\n\r\n",
        Either,
    ),
];

const LENGTH: &[Case] = &[
    ("length and coding", "6.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: gateway.test\r\n\r\n", Refused),
    ("coding and length", "6.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n1\r\nZ\r\n0\r\n\r\n", Refused),
    ("length 0 and coding", "6.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
    ("two different lengths", "6.3", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 5\r\nContent-Length: 0\r\n\r\nhello", Refused),
    ("list of different lengths", "6.3", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 5, 6\r\n\r\nhello", Refused),
    ("two equal lengths", "6.3", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", Either),
    ("list of equal lengths", "6.3", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 5, 5\r\n\r\nhello", Either),
    ("length with a plus", "RFC 9110 8.6", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: +5\r\n\r\nhello", Refused),
    ("length below zero", "RFC 9110 8.6", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: -5\r\n\r\nhello", Refused),
    ("length in hex", "RFC 9110 8.6", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 0x5\r\n\r\nhello", Refused),
    ("length with a unit", "RFC 9110 8.6", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 5b\r\n\r\nhello", Refused),
    ("length with a point", "RFC 9110 8.6", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 5.0\r\n\r\nhello", Refused),
    ("length with a space inside", "RFC 9110 8.6", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 5 5\r\n\r\nhello", Refused),
    ("length with a NUL", "RFC 9110 8.6", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 5\0\r\n\r\nhello", Refused),
    ("length with a vertical tab", "RFC 9110 8.6", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: \x0b5\r\n\r\nhello", Refused),
    ("length in other digits", "RFC 9110 8.6", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: \xd9\xa5\r\n\r\nhello", Refused),
    ("empty length", "RFC 9110 8.6", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: \r\n\r\nhello", Refused),
    ("length beyond all numbers", "RFC 9110 8.6", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 99999999999999999999999\r\n\r\nhello", RefusedAs(&[400, 413])),
    ("length with zeros before it", "RFC 9110 8.6", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 0005\r\n\r\nhello", Either),
    ("space before the colon of a length", "5.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length : 5\r\n\r\nhello", Refused),
    ("length of a GET", "RFC 9110 9.3.1", b"GET / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 5\r\n\r\nhello", Passed),
];

const CODING: &[Case] = &[
    ("coding in mixed case", "7", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: ChUnKeD\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Passed),
    ("identity", "7", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: identity\r\n\r\nhello", RefusedAs(&[400, 501])),
    ("chunked is not the last", "6.3", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", RefusedAs(&[400, 501])),
    ("chunked twice", "7.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", RefusedAs(&[400, 501])),
    ("chunked in two fields", "7.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", RefusedAs(&[400, 501])),
    ("identity in a second field", "6.3", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", RefusedAs(&[400, 501])),
    ("identity in a first field", "6.3", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", RefusedAs(&[400, 501])),
    ("coding that nobody knows", "6.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", RefusedAs(&[400, 501])),
    ("gzip before chunked", "6.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", RefusedAs(&[400, 501])),
    ("chunked in quotes", "7", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", RefusedAs(&[400, 501])),
    ("chunked with a parameter", "7.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", RefusedAs(&[400, 501])),
    ("chunked after a vertical tab", "7", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", Refused),
    ("empty coding", "6.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: \r\n\r\nhello", RefusedAs(&[400, 501])),
    ("empty element before chunked", "RFC 9110 5.6.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: , chunked\r\n\r\n0\r\n\r\n", Either),
    ("space before the colon of a coding", "5.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", Refused),
    ("coding in HTTP/1.0", "6.1", b"POST / HTTP/1.0\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Refused),
    ("coding and length in HTTP/1.0", "6.1", b"POST / HTTP/1.0\r\nHost: gateway.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
];

const CHUNKS: &[Case] = &[
    ("size is not hex", "7.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n", Cut),
    ("size with a plus", "7.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n", Cut),
    ("size below zero", "7.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n", Cut),
    ("size with 0x", "7.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", Cut),
    ("size beyond all numbers", "7.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n", Cut),
    ("no size", "7.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n", Cut),
    ("nothing after the data", "7.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n", Cut),
    ("data longer than its size", "7.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n", Cut),
    ("bare LF after a size", "2.2", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", CutOrPassed),
    ("bare LF after the data", "2.2", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n", CutOrPassed),
    ("bare LF in an extension", "7.1.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n5;a\nhello\r\n0\r\n\r\n", CutOrPassed),
    ("bare CR in an extension", "7.1.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n5;a\rb\r\nhello\r\n0\r\n\r\n", CutOrPassed),
    ("space after a size", "7.1.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n", CutOrPassed),
    ("extension", "7.1.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\n\r\n", Passed),
    ("framing in a trailer", "7.1.2", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 50\r\nHost: other.test\r\n\r\n", CutOrPassed),
    ("zeros before a size", "7.1", b"POST / HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n0005\r\nhello\r\n0\r\n\r\n", CutOrPassed),
];

const TABLES: [&[Case]; 6] = [START_LINE, FIELDS, HOST, LENGTH, CODING, CHUNKS];

#[test]
fn the_table_is_long_and_each_case_is_its_own() {
    let cases: Vec<&Case> = TABLES.iter().copied().flatten().collect();
    assert!(cases.len() >= 60, "{}", cases.len());
    for (nth, case) in cases.iter().enumerate() {
        let same = |other: &&&Case| other.0 == case.0 || other.2 == case.2;
        assert!(cases[..nth].iter().find(same).is_none(), "{} twice", case.0);
    }
}

#[test]
fn request_lines() {
    judge(START_LINE);
}

#[test]
fn field_lines() {
    judge(FIELDS);
}

#[test]
fn hosts() {
    judge(HOST);
}

#[test]
fn content_lengths() {
    judge(LENGTH);
}

#[test]
fn transfer_codings() {
    judge(CODING);
}

#[test]
fn chunks() {
    judge(CHUNKS);
}

#[test]
fn what_is_refused_is_refused_on_a_used_connection_too() {
    let (origin, gw) = pair();
    for (name, _, sent, expect) in FIELDS.iter().chain(LENGTH) {
        if !matches!(expect, Refused) {
            continue;
        }
        let mut client = gw.client();
        assert_eq!(client.get("/before").status, 200);
        let mark = origin.mark();
        client.send(sent);
        let status = client.response().map(|r| r.status);
        assert_eq!(status, Ok(400), "{name}");
        assert!(client.is_closed_within(Duration::from_secs(3)), "{name}");
        assert!(origin.since(&mark).is_empty(), "{name}");
    }
}

#[test]
fn verdicts_do_not_depend_on_how_bytes_arrive() {
    let (origin, gw) = pair();
    for (name, _, sent, expect) in [FIELDS[0], FIELDS[3], FIELDS[5], HOST[2], LENGTH[0]] {
        assert!(matches!(expect, Refused));
        let mut client = gw.client();
        let mark = origin.mark();
        for byte in sent {
            // Refused before the last byte is as good.
            client.send([*byte]);
        }
        match client.response() {
            Ok(response) => assert_eq!(response.status, 400, "{name}"),
            Err(failure) => assert_eq!(failure, Failure::Reset, "{name}"),
        }
        assert!(origin.since(&mark).is_empty(), "{name}");
    }
}

#[test]
fn every_refusal_is_in_the_access_log_and_in_the_metrics() {
    let (_origin, gw) = pair();
    let refused: Vec<&Case> = HOST.iter().filter(|c| matches!(c.3, Refused)).collect();
    for (_, _, sent, _) in &refused {
        let mut client = gw.client();
        client.send(sent);
        assert_eq!(client.response().unwrap().status, 400);
    }
    let reasons = gw.reasons(refused.len());
    assert!(reasons.iter().all(|r| r == "bad_request"), "{reasons:?}");
    assert_eq!(reasons.len(), refused.len());
    let counted = gw
        .metrics()
        .sum("harbr_http_requests_total", &[("reason", "bad_request")]);
    assert_eq!(counted, refused.len() as f64);
}

fn pair() -> (Origin, Gw) {
    let origin = Origin::echo();
    let text = route("/", &[origin.url()], "timeout_ms: 3000\n");
    let gw = Gw::start(format!("header_timeout_ms: 1500\n{text}"));
    (origin, gw)
}

#[track_caller]
fn judge(table: &[Case]) {
    let (mut origin, mut gw) = pair();
    let mut wrong = Vec::new();
    for (nth, case) in table.iter().enumerate() {
        if nth > 0 && !matches!(table[nth - 1].3, Refused | Passed) {
            // What was cut in the middle may reach its origin late, and would count for this one.
            (origin, gw) = pair();
        }
        if let Err(why) = verdict(case, &origin, &gw) {
            wrong.push(format!("{} ({}): {:?}, but {why}", case.0, case.1, case.3));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        table.len(),
        wrong.join("\n")
    );
}

fn verdict(case: &Case, origin: &Origin, gw: &Gw) -> Result<(), String> {
    let (name, _, sent, expect) = case;
    let mark = origin.mark();
    let mut client = gw.client();
    client.patience(Duration::from_secs(5));
    client.send(sent);
    let answer = client.response().map(|r| r.status);
    let closed = match answer {
        Ok(200) => true,
        _ => client.is_closed_within(Duration::from_secs(3)),
    };
    let received = origin.since(&mark);
    let target = format!("/sentinel/{}", name.replace(' ', "-"));
    let sentinel = gw.get(&target);
    if sentinel.status != 200 || sentinel.json()["target"] != target.as_str() {
        return Err(format!(
            "the next request got {} {}",
            sentinel.status,
            sentinel.text()
        ));
    }
    if !closed {
        return Err(format!("{answer:?} and the connection stays open"));
    }
    let refused = |statuses: &[u16]| match answer {
        Ok(status) if statuses.contains(&status) && received.is_empty() => Ok(()),
        _ => Err(format!(
            "{answer:?} and the endpoint got {}",
            shown(&received)
        )),
    };
    let passed = || match (&answer, received.as_slice()) {
        (Ok(200), [one]) => match whole_requests(one) {
            Ok(requests) if requests.len() == 1 => Ok(()),
            other => Err(format!("the endpoint got {} ({other:?})", shown(&received))),
        },
        _ => Err(format!(
            "{answer:?} and the endpoint got {}",
            shown(&received)
        )),
    };
    let cut = || {
        let whole = received.iter().any(|bytes| whole_requests(bytes).is_ok());
        match answer {
            Ok(400) | Err(Failure::Closed | Failure::Reset) if !whole => Ok(()),
            _ => Err(format!(
                "{answer:?} and the endpoint got {}",
                shown(&received)
            )),
        }
    };
    match expect {
        Refused => refused(&[400]),
        RefusedAs(statuses) => refused(statuses),
        Passed => passed(),
        Either => refused(&[400, 417, 501, 505]).or_else(|_| passed()),
        Cut => cut(),
        CutOrPassed => cut().or_else(|_| passed()),
    }
}

fn shown(received: &[Vec<u8>]) -> String {
    let all: Vec<_> = received
        .iter()
        .map(|b| String::from_utf8_lossy(b))
        .collect();
    format!("{all:?}")
}
