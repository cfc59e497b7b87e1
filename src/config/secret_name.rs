//! Which settings are kept from being shown, by their names.

/// Whether a filter's setting of this name is kept from being shown.
pub(super) fn names_a_secret(setting: &str) -> bool {
    let setting = setting.to_ascii_lowercase();
    ["password", "secret", "token"]
        .iter()
        .any(|word| setting.contains(word))
}
