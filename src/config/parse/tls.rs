//! The `tls` section. Its files are read when a snapshot is built, not here.

use super::fields::Fields;
use super::report::Report;
use crate::config::keys::Section;
use crate::config::model::{CertificateFiles, ClientAuth, ClientCertPolicy, Tls, TlsVersion};
use crate::config::node::describe;
use crate::config::problem::Wrong;
use crate::config::tree::Value;

/// `tls`; `None` without it, or with a problem in it.
pub(super) fn tls(report: &mut Report, root: &Fields) -> Option<Tls> {
    let field = root.find("tls")?;
    let trail = root.trail.key("tls");
    let fields = Fields::open(report, field.node, field.at, trail, Section::Tls)?;
    let certificates = certificates(report, &fields);
    let listen_addr = fields.addresses(report, "listen_addr");
    let min_version = match fields.choice(report, "min_version") {
        Some("1.3") => TlsVersion::Tls13,
        _ => TlsVersion::Tls12,
    };
    let client_auth = client_auth(report, &fields);
    let redirect_http = fields.bool_or_default(report, "redirect_http");
    if redirect_http && fields.find("listen_addr").is_none() {
        let wrong = Wrong::new(
            "there is no HTTPS listener to redirect to",
            "add `tls.listen_addr`, for example `\"0.0.0.0:8443\"`",
        );
        fields.wrong(report, "redirect_http", wrong);
    }
    Some(Tls {
        listen_addr,
        certificates,
        min_version,
        client_auth,
        redirect_http,
    })
}

fn certificates(report: &mut Report, tls: &Fields) -> Vec<CertificateFiles> {
    let Some(field) = tls.require(report, "certificates") else {
        return Vec::new();
    };
    let items = match &field.node.value {
        Value::List(items) if !items.is_empty() => items,
        other => {
            let given = match other {
                Value::List(_) => "an empty list".to_owned(),
                _ => describe(field.node),
            };
            let wrong = Wrong::new(
                format!("must be a list of certificates, not {given}"),
                "for example `certificates: [{cert: example.org.pem, key: example.org.key}]`",
            );
            tls.wrong(report, "certificates", wrong);
            return Vec::new();
        }
    };
    let trail = tls.trail.key("certificates");
    let mut all = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let trail = trail.item(index);
        let Some(fields) = Fields::open(report, item, item.at, trail, Section::Certificate) else {
            continue;
        };
        fields.require(report, "cert");
        fields.require(report, "key");
        let (cert, key) = (fields.path(report, "cert"), fields.path(report, "key"));
        let ocsp = fields.path(report, "ocsp");
        if let (Some(cert), Some(key)) = (cert, key) {
            all.push(CertificateFiles {
                cert,
                key,
                ocsp,
                at: item.at,
            });
        }
    }
    all
}

fn client_auth(report: &mut Report, tls: &Fields) -> Option<ClientAuth> {
    let ca = tls.path(report, "client_ca");
    let word = tls.choice(report, "client_auth");
    let crl = tls.path(report, "client_crl");
    if tls.find("client_ca").is_none() {
        for name in ["client_auth", "client_crl"] {
            if tls.find(name).is_some() {
                let wrong = Wrong::new(
                    "needs `client_ca`, the authorities of the clients' certificates",
                    "for example `client_ca: clients.pem`",
                );
                tls.wrong(report, name, wrong);
            }
        }
    }
    Some(ClientAuth {
        ca: ca?,
        crl,
        policy: policy(word).unwrap_or(ClientCertPolicy::Required),
        at: tls.at("client_ca"),
    })
}

fn policy(word: Option<&str>) -> Option<ClientCertPolicy> {
    Some(match word? {
        "none" => ClientCertPolicy::None,
        "optional" => ClientCertPolicy::Optional,
        _ => ClientCertPolicy::Required,
    })
}

/// `client_auth` of a route.
pub(super) fn of_route(report: &mut Report, route: &Fields, tls: Option<&Tls>) -> ClientCertPolicy {
    let authority = tls.and_then(|tls| tls.client_auth.as_ref());
    let own = policy(route.choice(report, "client_auth"));
    match (own, authority) {
        (Some(policy), Some(_)) => policy,
        (None, Some(authority)) => authority.policy,
        (None | Some(ClientCertPolicy::None), None) => ClientCertPolicy::None,
        (Some(_), None) => {
            let wrong = Wrong::new(
                "needs `tls.client_ca`, the authorities of the clients' certificates",
                "for example `tls: {client_ca: clients.pem, …}`",
            );
            route.wrong(report, "client_auth", wrong);
            ClientCertPolicy::Required
        }
    }
}
