//! The only place where the gateway's own statuses are chosen and its own responses written.
//!
//! Its own file so that nothing else can leak something internal to a client: a response made here
//! has `status`, `title` and `reason`, to a client at fault a `detail` that names the rule it
//! broke, and nothing more; nothing of the request comes back. Shape: `application/problem+json`
//! (RFC 9457).

use bytes::Bytes;
use http::{Method, StatusCode, header};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use crate::error::{Fault, Reason};
use crate::filter;
use crate::http::end::End;

/// The status for an end with this reason. `fault` tells a client that is late with its body from
/// an endpoint that is late with its response.
pub fn status(reason: Reason, fault: Option<Fault>) -> u16 {
    match reason {
        Reason::Ok | Reason::Drained | Reason::HandedOver => 200,
        Reason::NoRoute => 404,
        Reason::BadRequest => 400,
        Reason::Unauthorized => 401,
        Reason::FilterRefused | Reason::CertificateRequired => 403,
        Reason::HeaderTimeout
        | Reason::IdleTimeout
        | Reason::SniffTimeout
        | Reason::HalfOpen
        | Reason::PeerTimeout => 408,
        Reason::BodyTooLarge => 413,
        Reason::Unmatched | Reason::Misdirected => 421,
        Reason::RateLimited => 429,
        Reason::HeaderTooLarge => 431,
        // Never sent, there is nobody to read it; the access log shows it as nginx does.
        Reason::ClientClosed => 499,
        Reason::FilterError => 500,
        Reason::ConnectFailed | Reason::UpstreamReset | Reason::UpstreamError => 502,
        Reason::NoHealthyEndpoint | Reason::QueueTimeout | Reason::TooManyConnections => 503,
        Reason::Timeout if fault == Some(Fault::Client) => 408,
        Reason::Timeout | Reason::ConnectTimeout => 504,
        Reason::Loop => 508,
    }
}

/// A response made here, before it is sent.
pub struct Answer {
    /// Its status and fields; framing is decided when it is written.
    pub head: ResponseHeader,
    /// All of it.
    pub body: Bytes,
}

/// The gateway's own response.
pub fn refusal(end: End) -> Result<Answer> {
    let status = status(end.reason, end.fault);
    let detail = match end.detail {
        None if status == 400 => Some("the request breaks the grammar of HTTP"),
        detail => detail,
    };
    let body = Bytes::from(problem(status, end.reason, detail));
    let mut head = ResponseHeader::build_no_case(status, Some(6))?;
    head.insert_header(header::CONTENT_TYPE, "application/problem+json")?;
    head.insert_header(header::CACHE_CONTROL, "no-store")?;
    if status == 503 {
        head.insert_header(header::RETRY_AFTER, RETRY_AFTER_SECS)?;
    }
    Ok(Answer { head, body })
}

/// The answer that sends a client to https, where `port` listens.
///
/// # Errors
/// It does not say for which host it is.
pub fn redirect_to_https(request: &RequestHeader, port: u16) -> Result<Answer> {
    let host = request.headers.get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let path = String::from_utf8_lossy(request.raw_path());
    if host.is_empty() || !path.starts_with('/') {
        return refusal(End::bad_request(
            "only https is served here, and no host is named",
        ));
    }
    let mut head = ResponseHeader::build_no_case(StatusCode::PERMANENT_REDIRECT, Some(3))?;
    head.insert_header(header::LOCATION, https_location(host, &path, port))?;
    let body = Bytes::new();
    Ok(Answer { head, body })
}

/// The same request by https. A client that named no port came to the standard one and finds https
/// at the standard one, whatever is mapped in between; any other goes to `port`.
pub fn https_location(host: &str, path: &str, port: u16) -> String {
    let (name, has_port) = match host.rsplit_once(':') {
        Some((name, digits)) if digits.bytes().all(|b| b.is_ascii_digit()) => (name, true),
        _ => (host, false),
    };
    match (has_port, port) {
        (false, _) | (true, 443) => format!("https://{name}{path}"),
        (true, port) => format!("https://{name}:{port}{path}"),
    }
}

/// A filter's response: its own, or the gateway's for its reason with the filter's headers.
///
/// # Errors
/// One with a status that ends no request (RFC 9110, section 15.2).
pub fn of_filter(response: filter::Response) -> Result<Answer> {
    if let Some(wrong) = response.wrong {
        return Error::e_explain(ErrorType::InternalError, wrong);
    }
    let mut answer = match response.status {
        None => refusal(End {
            detail: response.detail,
            ..response.reason.into()
        })?,
        Some(status) if status.is_informational() => {
            return Error::e_explain(ErrorType::InternalError, "a filter answers with 1xx");
        }
        Some(status) => Answer {
            head: ResponseHeader::build_no_case(status, Some(response.headers.len() + 4))?,
            body: response.body,
        },
    };
    for name in response.headers.keys() {
        if !filter::FRAMING.contains(name) {
            answer.head.remove_header(name);
            for value in response.headers.get_all(name) {
                answer.head.append_header(name, value)?;
            }
        }
    }
    Ok(answer)
}

/// Whether a response with this head has a body (RFC 9112, section 6.3).
pub fn has_body(session: &Session, head: &ResponseHeader) -> bool {
    session.req_header().method != Method::HEAD
        && !matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        )
}

/// Writes an answer and returns its status. `HEAD` gets the header alone. Framing is decided here,
/// whatever became of the head on its way.
pub async fn write(session: &mut Session, answer: Answer) -> Result<u16> {
    let Answer { mut head, body } = answer;
    let with_body = has_body(session, &head);
    head.remove_header(&header::TRANSFER_ENCODING);
    head.remove_header(&header::CONTENT_LENGTH);
    if !matches!(
        head.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    ) {
        head.insert_header(header::CONTENT_LENGTH, body.len())?;
    }
    let status = head.status.as_u16();
    session
        .write_response_header(Box::new(head), !with_body)
        .await?;
    if with_body {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(status)
}

/// A problem document. `detail` is text of ours.
pub fn problem(status: u16, reason: Reason, detail: Option<&'static str>) -> String {
    let title = http::StatusCode::from_u16(status)
        .ok()
        .and_then(|code| code.canonical_reason())
        .unwrap_or("Error");
    let detail = match detail {
        Some(detail) => format!(",\"detail\":{}", serde_json::Value::from(detail)),
        None => String::new(),
    };
    format!("{{\"status\":{status},\"title\":\"{title}\",\"reason\":\"{reason}\"{detail}}}")
}

/// `Retry-After` of every 503, in seconds.
pub const RETRY_AFTER_SECS: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_status_that_fits_its_fault() {
        for reason in Reason::ALL {
            let status = status(reason, reason.fault());
            let expected = match reason.fault() {
                None => 200..300,
                Some(Fault::Client) => 400..500,
                Some(Fault::Upstream | Fault::Gateway) => 500..600,
            };
            assert!(expected.contains(&status), "{reason}: {status}");
        }
    }

    #[test]
    fn who_named_a_port_goes_to_ours_and_others_to_the_standard_one() {
        for (host, port, location) in [
            ("example.org", 8443, "https://example.org/a?b"),
            ("example.org:8080", 8443, "https://example.org:8443/a?b"),
            ("example.org:80", 443, "https://example.org/a?b"),
            ("[::1]", 8443, "https://[::1]/a?b"),
            ("[::1]:80", 8443, "https://[::1]:8443/a?b"),
        ] {
            assert_eq!(https_location(host, "/a?b", port), location);
        }
    }

    #[test]
    fn a_client_that_is_late_gets_408() {
        assert_eq!(status(Reason::Timeout, Some(Fault::Client)), 408);
        assert_eq!(status(Reason::Timeout, Some(Fault::Upstream)), 504);
    }

    #[test]
    fn the_body_is_a_problem_document() {
        let body: serde_json::Value =
            serde_json::from_str(&problem(503, Reason::QueueTimeout, None)).unwrap();
        assert_eq!(
            body,
            serde_json::json!({"status": 503, "title": "Service Unavailable", "reason": "queue_timeout"})
        );
        let why = "a \"b\" `\\` 'c'";
        let body = problem(400, Reason::BadRequest, Some(why));
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["detail"], why);
    }
}
