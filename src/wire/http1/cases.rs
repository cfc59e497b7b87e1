//! Request heads and the verdict on each: the table that the tests of this module run, and those of
//! `server` run again through Pingora.

use proptest::prelude::*;

use super::BodyFraming::{self, Chunked, Length, None};

/// What must come of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It passes, with this framing.
    Pass(BodyFraming),
    /// It is answered with this status.
    Status(u16),
    /// It is not whole yet.
    More,
}

use Verdict::{More, Pass, Status};

/// Name, RFC section, bytes, verdict.
pub(crate) type Case = (&'static str, &'static str, &'static [u8], Verdict);

/// The limit that the table is written for.
pub(crate) const MAX_BYTES: usize = 8192;

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    // What passes.
    ("smallest 1.1 request", "9112 2.1", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Pass(None)),
    ("1.0 without Host", "9112 3.2", b"GET / HTTP/1.0\r\n\r\n", Pass(None)),
    ("1.0 with Host", "9112 3.2", b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", Pass(None)),
    ("one empty line first", "9112 2.2", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Pass(None)),
    ("content length", "9112 6.2", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n", Pass(Length(12))),
    ("content length 0", "9112 6.2", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", Pass(None)),
    ("content length with leading zeros", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 007\r\n\r\n", Pass(Length(7))),
    ("content length in mixed case", "9110 5.1", b"POST / HTTP/1.1\r\nhOsT: a\r\ncONTENT-lENGTH: 3\r\n\r\n", Pass(Length(3))),
    ("content length of a GET", "9110 9.3.1", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", Pass(Length(3))),
    ("largest content length", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775807\r\n\r\n", Pass(Length(i64::MAX as u64))),
    ("content length with 1.0", "9112 6.3", b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\n", Pass(Length(3))),
    ("chunked", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Pass(Chunked)),
    ("chunked in mixed case", "9112 7", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \t ChUnKeD \t\r\n\r\n", Pass(Chunked)),
    ("no space after colon", "9112 5.1", b"GET / HTTP/1.1\r\nHost:a\r\n\r\n", Pass(None)),
    ("tabs around a value", "9112 5.1", b"GET / HTTP/1.1\r\nHost:\t a \t\r\nX: a\tb\r\n\r\n", Pass(None)),
    ("empty value", "9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\nY: \r\n\r\n", Pass(None)),
    ("obs-text in a value", "9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\nX: caf\xe9\xff\r\n\r\n", Pass(None)),
    ("every tchar in a name", "9110 5.6.2", b"GET / HTTP/1.1\r\nHost: a\r\n!#$%&'*+-.^_`|~09AZaz: x\r\n\r\n", Pass(None)),
    ("own method", "9110 9.1", b"M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n", Pass(None)),
    ("lower-case method", "9110 9.1", b"get / HTTP/1.1\r\nHost: a\r\n\r\n", Pass(None)),
    ("longest method", "9110 9.1", b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF / HTTP/1.1\r\nHost: a\r\n\r\n", Pass(None)),
    ("asterisk-form", "9112 3.2.4", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Pass(None)),
    ("absolute-form", "9112 3.2.2", b"GET http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n", Pass(None)),
    ("absolute-form without path", "9112 3.2.2", b"GET http://a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", Pass(None)),
    ("absolute-form with query only", "9112 3.2.2", b"GET http://a?b HTTP/1.1\r\nHost: a\r\n\r\n", Pass(None)),
    ("absolute-form with scheme in capitals", "3986 3.1", b"GET HTTP://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Pass(None)),
    ("absolute-form with 1.0 and no Host", "9112 3.2.2", b"GET http://a/ HTTP/1.0\r\n\r\n", Pass(None)),
    ("query", "3986 3.4", b"GET /a?b=c&d=%20/?:@ HTTP/1.1\r\nHost: a\r\n\r\n", Pass(None)),
    ("doubled slashes and dots", "3986 3.3", b"GET //a/..//b/./%2e%2E/ HTTP/1.1\r\nHost: a\r\n\r\n", Pass(None)),
    ("pipe, braces, brackets as clients send them", "3986 2", b"GET /{a}|[b]^?q={x}|\\`^ HTTP/1.1\r\nHost: a\r\n\r\n", Pass(None)),
    ("Host with port", "9110 7.2", b"GET / HTTP/1.1\r\nHost: example.com:8080\r\n\r\n", Pass(None)),
    ("Host with empty port", "3986 3.2.3", b"GET / HTTP/1.1\r\nHost: example.com:\r\n\r\n", Pass(None)),
    ("Host with IPv6", "3986 3.2.2", b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Pass(None)),
    ("absolute-form with IPv6", "9112 3.2.2", b"GET http://[::1]:80/ HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Pass(None)),
    ("Expect", "9110 10.1.1", b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-Continue\r\n\r\n", Pass(Length(1))),
    ("upgrade", "9110 7.8", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", Pass(None)),
    ("upgrade with a body", "9110 7.8", b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n", Pass(Length(2))),
    ("bytes behind the head", "9112 9.3.2", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\0\n\r garbage", Pass(None)),
    // What is not whole.
    ("nothing", "9112 2.1", b"", More),
    ("an empty line", "9112 2.2", b"\r\n", More),
    ("half a request line", "9112 3", b"GET / HTT", More),
    ("no empty line yet", "9112 2.1", b"GET / HTTP/1.1\r\nHost: a\r\n", More),
    ("CR of the empty line", "9112 2.1", b"GET / HTTP/1.1\r\nHost: a\r\n\r", More),
    // Line ends and bytes.
    ("bare LF after the request line", "9112 2.2", b"GET / HTTP/1.1\nHost: a\r\n\r\n", Status(400)),
    ("bare LF after a field", "9112 2.2", b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", Status(400)),
    ("bare LF as empty line", "9112 2.2", b"GET / HTTP/1.1\r\nHost: a\r\n\n", Status(400)),
    ("LF LF", "9112 2.2", b"GET / HTTP/1.1\nHost: a\n\n", Status(400)),
    ("bare LF first", "9112 2.2", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("bare CR in a value", "9112 2.2", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", Status(400)),
    ("bare CR in a name", "9112 2.2", b"GET / HTTP/1.1\r\nHost: a\r\nX\rY: b\r\n\r\n", Status(400)),
    ("bare CR in the target", "9112 2.2", b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("CR CR LF", "9112 2.2", b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", Status(400)),
    ("two empty lines first", "9112 2.2", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("NUL in a value", "9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", Status(400)),
    ("NUL in a name", "9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n", Status(400)),
    ("control byte in a value", "9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n", Status(400)),
    ("vertical tab before chunked", "9110 5.5", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", Status(400)),
    ("DEL in a value", "9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", Status(400)),
    ("TLS ClientHello, its first bytes", "9112 3", b"\x16\x03\x01\x02", Status(400)),
    ("SSH banner", "9112 3", b"SSH-2.0-OpenSSH_9.6\r\n", Status(400)),
    // Field lines.
    ("obs-fold with space", "9112 5.2", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", Status(400)),
    ("obs-fold with tab", "9112 5.2", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n", Status(400)),
    ("whitespace before the first field", "9112 2.2", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", Status(400)),
    ("line of one space", "9112 5.2", b"GET / HTTP/1.1\r\nHost: a\r\n \r\n\r\n", Status(400)),
    ("space before colon", "9112 5.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", Status(400)),
    ("tab before colon", "9112 5.1", b"GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", Status(400)),
    ("empty name", "9112 5", b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Status(400)),
    ("no colon", "9112 5", b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", Status(400)),
    ("space in a name", "9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\nX Y: b\r\n\r\n", Status(400)),
    ("parenthesis in a name", "9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\n(X): b\r\n\r\n", Status(400)),
    ("obs-text in a name", "9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\nX\xff: b\r\n\r\n", Status(400)),
    // Request line.
    ("HTTP/0.9", "9112 3", b"GET /\r\n\r\n", Status(400)),
    ("HTTP/0.9 by name", "9112 2.3", b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", Status(400)),
    ("two spaces", "9112 3", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("two spaces before the version", "9112 3", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("space at the end", "9112 3", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Status(400)),
    ("space first", "9112 3", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("tab for space", "9112 3", b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("space in the target", "9112 3", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("invalid method byte", "9110 9.1", b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("method too long", "9110 9.1", b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("version in lower case", "9112 2.3", b"GET / http/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("version without minor", "9112 2.3", b"GET / HTTP/1\r\nHost: a\r\n\r\n", Status(400)),
    ("version with two digits", "9112 2.3", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", Status(400)),
    ("version 1.2", "9110 15.6.6", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", Status(505)),
    ("version 2.0", "9110 15.6.6", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", Status(505)),
    ("HTTP/2 preface", "9113 3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Status(505)),
    ("CONNECT", "9110 9.3.6", b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", Status(405)),
    ("TRACE", "9110 9.3.8", b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Status(405)),
    // Target.
    ("no slash", "9112 3.2.1", b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("query without path", "9112 3.2.1", b"GET ?a HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("asterisk with GET", "9112 3.2.4", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("fragment", "9112 3.2", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("raw UTF-8", "3986 2.1", b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", Pass(None)),
    ("DEL in the target", "3986 2", b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("backslash in the path", "3986 3.3", b"GET /a\\..\\b HTTP/1.1\r\nHost: a\r\n\r\n", Pass(None)),
    ("quote in the target", "3986 2", b"GET /?a=\"b\" HTTP/1.1\r\nHost: a\r\n\r\n", Pass(None)),
    ("angle brackets in the target", "3986 2", b"GET /<a> HTTP/1.1\r\nHost: a\r\n\r\n", Pass(None)),
    ("https in the target", "9110 4.2.2", b"GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Pass(None)),
    ("absolute-form in another case", "3986 6.2.3", b"GET HTTP://Example.COM/a HTTP/1.1\r\nHost: example.com\r\n\r\n", Pass(None)),
    ("absolute-form with the default port", "3986 6.2.3", b"GET http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n", Pass(None)),
    ("default port in Host alone", "3986 6.2.3", b"GET http://a/ HTTP/1.1\r\nHost: a:80\r\n\r\n", Pass(None)),
    ("absolute-form with an empty port", "3986 6.2.3", b"GET http://a:/ HTTP/1.1\r\nHost: a\r\n\r\n", Pass(None)),
    ("https with its default port", "3986 6.2.3", b"GET https://a:443/ HTTP/1.1\r\nHost: A\r\n\r\n", Pass(None)),
    ("IPv6 written in another way", "3986 6.2.3", b"GET http://[0::1]:80/ HTTP/1.1\r\nHost: [::1]\r\n\r\n", Pass(None)),
    ("http with the port of https", "3986 6.2.3", b"GET http://a:443/ HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("https with the port of http", "3986 6.2.3", b"GET https://a/ HTTP/1.1\r\nHost: a:80\r\n\r\n", Status(400)),
    ("trailing dot in the target alone", "3986 6.2.3", b"GET http://a./ HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("ws in the target", "9112 3.2.2", b"GET ws://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("opaque target", "9112 3.2.2", b"GET http:a HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("empty authority", "9110 4.2.1", b"GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("scheme and nothing", "9112 3.2.2", b"GET http:// HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("userinfo in the target", "9110 4.2.4", b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("backslash in the authority", "3986 3.2.2", b"GET http://a\\b/ HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("target names another host", "9112 3.2.2", b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    ("target names another port", "9112 3.2.2", b"GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", Status(400)),
    // Host.
    ("no Host", "9112 3.2", b"GET / HTTP/1.1\r\n\r\n", Status(400)),
    ("absolute-form and no Host", "9112 3.2", b"GET http://a/ HTTP/1.1\r\n\r\n", Status(400)),
    ("two Hosts", "9112 3.2", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Status(400)),
    ("two equal Hosts", "9112 3.2", b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", Status(400)),
    ("two Hosts with 1.0", "9112 3.2", b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", Status(400)),
    ("empty Host", "9110 4.2.1", b"GET / HTTP/1.1\r\nHost: \r\n\r\n", Status(400)),
    ("list of Hosts", "9112 3.2", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Status(400)),
    ("userinfo in Host", "9110 4.2.4", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Status(400)),
    ("path in Host", "9112 3.2", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Status(400)),
    ("port too large", "3986 3.2.3", b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", Status(400)),
    ("port not a number", "3986 3.2.3", b"GET / HTTP/1.1\r\nHost: a:http\r\n\r\n", Status(400)),
    ("two ports", "3986 3.2.3", b"GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", Status(400)),
    ("IPv6 without brackets", "3986 3.2.2", b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", Status(400)),
    ("IPv6 left open", "3986 3.2.2", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", Status(400)),
    ("percent-encoded host", "3986 3.2.2", b"GET / HTTP/1.1\r\nHost: a%2eb\r\n\r\n", Status(400)),
    ("obs-text in Host", "3986 3.2.2", b"GET / HTTP/1.1\r\nHost: caf\xe9\r\n\r\n", Status(400)),
    // Framing.
    ("CL and TE", "9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", Status(400)),
    ("TE and CL", "9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", Status(400)),
    ("TE and CL of 0", "9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", Status(400)),
    ("two content lengths", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", Status(400)),
    ("two equal content lengths", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", Status(400)),
    ("list of equal content lengths", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", Status(400)),
    ("list of content lengths", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1,1\r\n\r\n", Status(400)),
    ("signed content length", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", Status(400)),
    ("negative content length", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", Status(400)),
    ("hexadecimal content length", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x10\r\n\r\n", Status(400)),
    ("empty content length", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Status(400)),
    ("content length with a space inside", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 2\r\n\r\n", Status(400)),
    ("content length beyond i64", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n", Status(400)),
    ("content length of 20 digits", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n", Status(400)),
    ("content length with a decimal point", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1.0\r\n\r\n", Status(400)),
    ("chunked with 1.0", "9112 6.1", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Status(400)),
    ("chunked twice", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", Status(400)),
    ("two transfer encodings", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", Status(400)),
    ("identity", "9112 7", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", Status(400)),
    ("identity, chunked", "9112 7", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n", Status(400)),
    ("xchunked", "9112 7", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", Status(400)),
    ("chunked in quotes", "9112 7", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", Status(400)),
    ("chunked with a parameter", "9112 7", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;a=b\r\n\r\n", Status(400)),
    ("empty list member after chunked", "9112 7", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n", Status(400)),
    ("chunked not last", "9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", Status(400)),
    ("empty transfer encoding", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", Status(400)),
    ("gzip, chunked", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Status(501)),
    ("gzip", "9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", Status(501)),
    ("unknown expectation", "9110 10.1.1", b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", Status(417)),
    ("list of expectations", "9110 10.1.1", b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, x\r\n\r\n", Status(417)),
];

/// Bytes that look like heads often enough to get somewhere.
pub(crate) fn heads() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        4 => prop::sample::select(vec![
            "GET ", "POST ", "/", "/a?b", "*", "http://a/", " HTTP/1.1", " HTTP/1.0", "\r\n", "\r\n\r\n",
            "Host: a", "Host: b:80", "Content-Length: 5", "Transfer-Encoding: chunked", "Connection: close",
            "Expect: 100-continue", "Upgrade: x", "X: y", ": ", " ", "\t", "\r", "\n", ",", "0",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ];
    let mess = prop::collection::vec(token, 0..24).prop_map(|tokens| tokens.concat());
    let changed = (
        prop::sample::select(CASES.to_vec()),
        any::<prop::sample::Index>(),
        any::<u8>(),
    )
        .prop_map(|((_, _, bytes, _), at, byte)| {
            let mut bytes = bytes.to_vec();
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        });
    prop_oneof![mess, changed, prop::collection::vec(any::<u8>(), 0..200)]
}
