//! A request without a gateway around it, for the unit tests of filters: a real Pingora session that
//! has read a real head.

use std::net::IpAddr;

use http::{Extensions, HeaderMap};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use tokio::io::{AsyncWriteExt, DuplexStream};

use crate::filter::{
    Attempt, BadSetting, Context, Filter, RequestHead, Response, ResponseHead, Result, Verdict,
};

/// One request that was matched by the route `/api`, from 192.0.2.7.
pub(super) struct Bed {
    session: Session,
    pub(super) client: Option<IpAddr>,
    pub(super) target: String,
    pub(super) stripped: &'static str,
    pub(super) extensions: Extensions,
    attempt: Attempt,
    /// Open, so that the session does not see its client leave.
    _client: DuplexStream,
}

impl Bed {
    /// A GET with these header lines, `Host` included, that was matched with this target.
    pub(super) async fn get(target: &str, headers: &[&str]) -> Bed {
        let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let head = format!("GET / HTTP/1.1\r\n{lines}\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let mut session = Session::new_h1(Box::new(server));
        assert!(session.as_downstream_mut().read_request().await.unwrap());
        Bed {
            session,
            client: Some([192, 0, 2, 7].into()),
            target: target.to_owned(),
            stripped: "",
            extensions: Extensions::new(),
            attempt: Attempt::default(),
            _client: client,
        }
    }

    pub(super) fn context(&mut self) -> Context<'_> {
        Context {
            session: &mut self.session,
            client: self.client,
            trusted: false,
            route: "/api",
            upstream: "/api",
            endpoint: None,
            tries: 0,
            target: &mut self.target,
            stripped: self.stripped,
            replaced: None,
            extensions: &mut self.extensions,
            attempt: &mut self.attempt,
            tls: None,
            idle: false,
        }
    }

    pub(super) async fn request(&mut self, filter: &impl Filter) -> Result<Verdict> {
        filter.request(&mut self.context()).await
    }

    /// The answer of a filter that does not let it pass.
    pub(super) async fn answer(&mut self, filter: &impl Filter) -> Response {
        match self.request(filter).await.unwrap() {
            Verdict::Respond(response) => response,
            Verdict::Continue => panic!("it passed"),
        }
    }

    /// Asserts that a filter lets it pass.
    pub(super) async fn passes(&mut self, filter: &impl Filter) {
        match self.request(filter).await.unwrap() {
            Verdict::Continue => {}
            Verdict::Respond(response) => panic!("it was answered: {response:?}"),
        }
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.session.req_header().headers
    }

    /// The head of one try, as the gateway copies it for each.
    pub(super) fn upstream_request(&mut self, filter: &impl Filter) -> RequestHeader {
        let mut head = self.session.req_header().clone();
        let mut cx = self.context();
        filter
            .upstream_request(&mut cx, &mut RequestHead::of_try(&mut head))
            .unwrap();
        head
    }

    /// What becomes of a response of 200 with these headers.
    pub(super) fn response(
        &mut self,
        filter: &impl Filter,
        headers: &[(&'static str, &str)],
    ) -> ResponseHeader {
        let mut head = ResponseHeader::build(200, None).unwrap();
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        let mut cx = self.context();
        filter
            .response(&mut cx, &mut ResponseHead::new(&mut head))
            .unwrap();
        head
    }
}

/// The settings as the YAML text of one filter has them.
pub(super) fn settings<S: serde::de::DeserializeOwned>(yaml: &str) -> S {
    serde_yaml::from_str(yaml).unwrap()
}

/// Why this YAML is no settings of `S`.
pub(super) fn refused<S: serde::de::DeserializeOwned>(yaml: &str) -> String {
    match serde_yaml::from_str::<S>(yaml) {
        Ok(_) => panic!("these are settings: {yaml}"),
        Err(error) => error.to_string(),
    }
}

/// Which setting `make` refuses, why, and what it says to write instead.
pub(super) fn wrong<F: std::fmt::Debug>(made: Result<F>) -> String {
    let error = made.unwrap_err();
    let Some(bad) = error.downcast_ref::<BadSetting>() else {
        return error.to_string();
    };
    match &bad.hint {
        Some(hint) => format!("{}: {bad} ({hint})", bad.setting),
        None => format!("{}: {bad}", bad.setting),
    }
}
