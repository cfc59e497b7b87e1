//! The only place where the gateway's own statuses are chosen and its own responses written.
//!
//! Its own file so that nothing else can leak something internal to a client: a response made here
//! has `status`, `title` and `reason`, and nothing more. Shape: `application/problem+json`
//! (RFC 9457). Called by `proxy.rs`; the edge uses [`status`] for what it refuses earlier.

use bytes::Bytes;
use pingora_core::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::error::{Fault, Reason};

/// The status for an end with this reason. `fault` tells a client that is late with its body from
/// an endpoint that is late with its response.
pub fn status(reason: Reason, fault: Option<Fault>) -> u16 {
    match reason {
        Reason::Ok | Reason::Drained | Reason::HandedOver => 200,
        Reason::NoRoute => 404,
        Reason::BadRequest => 400,
        Reason::Unauthorized => 401,
        Reason::FilterRefused => 403,
        Reason::HeaderTimeout | Reason::IdleTimeout | Reason::SniffTimeout | Reason::HalfOpen => {
            408
        }
        Reason::BodyTooLarge => 413,
        Reason::Unmatched => 421,
        Reason::RateLimited => 429,
        Reason::HeaderTooLarge => 431,
        // Never sent, there is nobody to read it; the access log shows it as nginx does.
        Reason::ClientClosed => 499,
        Reason::FilterError => 500,
        Reason::ConnectFailed | Reason::UpstreamReset | Reason::UpstreamError => 502,
        Reason::NoHealthyEndpoint | Reason::QueueTimeout | Reason::TooManyConnections => 503,
        Reason::Timeout if fault == Some(Fault::Client) => 408,
        Reason::Timeout | Reason::ConnectTimeout => 504,
    }
}

/// Writes the gateway's own response and returns its status. `HEAD` gets the header alone.
pub async fn refuse(session: &mut Session, reason: Reason, fault: Option<Fault>) -> Result<u16> {
    let status = status(reason, fault);
    let body = problem(status, reason);
    let mut header = ResponseHeader::build_no_case(status, Some(4))?;
    header.insert_header(http::header::CONTENT_TYPE, "application/problem+json")?;
    header.insert_header(http::header::CONTENT_LENGTH, body.len())?;
    header.insert_header(http::header::CACHE_CONTROL, "no-store")?;
    if status == 503 {
        header.insert_header(http::header::RETRY_AFTER, RETRY_AFTER_SECS)?;
    }
    let head_only = session.req_header().method == http::Method::HEAD;
    session
        .write_response_header(Box::new(header), head_only)
        .await?;
    if !head_only {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(status)
}

fn problem(status: u16, reason: Reason) -> Bytes {
    let title = http::StatusCode::from_u16(status)
        .ok()
        .and_then(|code| code.canonical_reason())
        .unwrap_or("Error");
    Bytes::from(format!(
        "{{\"status\":{status},\"title\":\"{title}\",\"reason\":\"{reason}\"}}"
    ))
}

/// What a client is told to wait before it comes again.
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
    fn a_client_that_is_late_is_told_so() {
        assert_eq!(status(Reason::Timeout, Some(Fault::Client)), 408);
        assert_eq!(status(Reason::Timeout, Some(Fault::Upstream)), 504);
    }

    #[test]
    fn the_body_is_a_problem_document() {
        let body: serde_json::Value =
            serde_json::from_slice(&problem(503, Reason::QueueTimeout)).unwrap();
        assert_eq!(
            body,
            serde_json::json!({"status": 503, "title": "Service Unavailable", "reason": "queue_timeout"})
        );
    }
}
