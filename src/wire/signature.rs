//! Whether the first bytes of a connection bear the signature of one protocol.

/// What one protocol says of the first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignatureMatch {
    No,
    Maybe,
    Yes,
}

impl SignatureMatch {
    /// Whether `bytes` begin with `signature`; `Maybe` while they end inside it.
    pub(super) fn prefix(bytes: &[u8], signature: &[u8]) -> SignatureMatch {
        let common = bytes.len().min(signature.len());
        if bytes[..common] != signature[..common] {
            SignatureMatch::No
        } else if common == signature.len() {
            SignatureMatch::Yes
        } else {
            SignatureMatch::Maybe
        }
    }
}
