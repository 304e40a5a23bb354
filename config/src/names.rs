//! What may be a name.
//!
//! Names become devices, files, DNS labels and parts of log lines, so each kind has the rule of
//! the strictest of its readers. Where the kernel sees a name, one that passed has its own type.

use std::fmt;

/// Longest name of a network, endpoint, uplink or alias, in bytes: a DNS label (RFC 1035 2.3.4).
pub const NAME_BYTES_MAX: usize = 63;

/// Longest name of an interface, in bytes: Linux's IFNAMSIZ less its final zero.
pub const INTERFACE_NAME_BYTES_MAX: usize = 15;

/// Longest name of a namespace, in bytes: a file name below /run/netns.
const NETNS_NAME_BYTES_MAX: usize = 255;

/// A name that the kernel takes for an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// Checks a name by the rules of the kernel's `dev_valid_name`, and refuses `%`, which the
    /// kernel would take as a pattern. The error says what is wrong.
    pub fn new(name: &str) -> Result<InterfaceName, String> {
        let forbidden =
            |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c == '\0';
        if name.len() > INTERFACE_NAME_BYTES_MAX {
            let bytes = name.len();
            Err(format!(
                "interface names have at most {INTERFACE_NAME_BYTES_MAX} bytes, not {bytes}"
            ))
        } else if name.is_empty() || name == "." || name == ".." || name.contains(forbidden) {
            Err(format!("{name:?} is no interface name: blanks, /, :, % and . alone are excluded"))
        } else {
            Ok(InterfaceName(name.to_owned()))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of a network namespace, as a file below /run/netns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsName(String);

impl NetnsName {
    /// Checks a name. The error says what is wrong.
    pub fn new(name: &str) -> Result<NetnsName, String> {
        if name.len() > NETNS_NAME_BYTES_MAX {
            let bytes = name.len();
            Err(format!("namespace names have at most {NETNS_NAME_BYTES_MAX} bytes, not {bytes}"))
        } else if name.contains('/') {
            Err(format!("{name:?} is no namespace name: a name below /run/netns has no /"))
        } else if name.is_empty() || name == "." || name == ".." || name.contains('\0') {
            Err(format!("{name:?} is no namespace name"))
        } else {
            Ok(NetnsName(name.to_owned()))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NetnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks the name of a network, endpoint, uplink or alias by Docker's rule and a limit on length.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let mut characters = name.chars();
    let starts_well = characters.next().is_some_and(|c| c.is_ascii_alphanumeric());
    let goes_on = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '-';
    if name.len() > NAME_BYTES_MAX {
        Err(format!("names have at most {NAME_BYTES_MAX} bytes, not {}", name.len()))
    } else if !starts_well || !characters.all(goes_on) {
        Err(format!(
            "{name:?} is no name: use letters, digits, _, . and -, a letter or digit first"
        ))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_follow_the_kernel() {
        for name in ["eth0", "a", "br-0123456789ab", "wlan.5", "ünïcode"] {
            assert_eq!(InterfaceName::new(name).unwrap().as_str(), name);
        }
        for name in ["", ".", "..", "a b", "a/b", "a:1", "tap%d", "a\tb", "0123456789abcdef"] {
            assert!(InterfaceName::new(name).is_err(), "{name}");
        }
        assert_eq!(
            InterfaceName::new("0123456789abcdef").unwrap_err(),
            "interface names have at most 15 bytes, not 16"
        );
    }

    #[test]
    fn namespace_names_are_file_names() {
        assert!(NetnsName::new("web").is_ok());
        for name in ["", ".", "..", "/proc/1/ns/net", "a\0", &"x".repeat(256)] {
            assert!(NetnsName::new(name).is_err(), "{name}");
        }
    }

    #[test]
    fn names_follow_docker() {
        for name in ["web", "web-1", "0", "a.b_c", &"x".repeat(63)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "-web", ".web", "we b", "wéb", "a/b", &"x".repeat(64)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
