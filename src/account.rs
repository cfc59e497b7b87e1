//! Who the process becomes once it has bound its sockets: `server.user` and `server.group`.
//!
//! Both ends of it must agree: BUILD looks the names up, the server changes to them. Invariant:
//! after [`Account::assume`] nothing of the account before is left, neither its supplementary
//! groups nor a way back.

use std::ffi::CString;

use nix::unistd::{
    Gid, Group, Uid, User, getegid, geteuid, getgid, getuid, initgroups, setgid, setgroups, setuid,
};

use crate::config::Config;
use crate::error::Error;

/// An account of this machine, or nothing to change to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    user: Option<(CString, Uid)>,
    group: Option<Gid>,
}

impl Account {
    /// The account that `config` names; without a group, the user's own one.
    ///
    /// # Errors
    /// There is no such user or group (a configuration error), or they cannot be looked up.
    pub fn look_up(config: &Config) -> Result<Account, Error> {
        let unknown = |key: &str, name: &str| {
            let file = config.file.display();
            Error::config(format!(
                "{file}: server.{key}: there is no {key} `{name}` on this machine"
            ))
        };
        let failed = |key: &str, errno: nix::Error| {
            Error::io(format!("server.{key}: cannot be looked up")).because(errno)
        };
        let mut account = Account::default();
        if let Some(name) = &config.server.user {
            let user = User::from_name(name).map_err(|errno| failed("user", errno))?;
            let user = user.ok_or_else(|| unknown("user", name))?;
            let name = CString::new(user.name).map_err(|_| unknown("user", name))?;
            account.user = Some((name, user.uid));
            account.group = Some(user.gid);
        }
        if let Some(name) = &config.server.group {
            let group = Group::from_name(name).map_err(|errno| failed("group", errno))?;
            account.group = Some(group.ok_or_else(|| unknown("group", name))?.gid);
        }
        Ok(account)
    }

    /// Whether [`assume`](Account::assume) will do it: asked before anything is bound or written,
    /// which an ordinary account may fail at for reasons that say less.
    ///
    /// # Errors
    /// The process is not root's, and not the account's already.
    pub fn within_reach(&self) -> Result<(), Error> {
        match geteuid().is_root() || self.is_ours() {
            true => Ok(()),
            false => Err(Error::io(format!(
                "server.user, server.group: only root can change its account, and this process runs \
                 as {}: start it as root, or remove the keys",
                running_as()
            ))),
        }
    }

    /// Makes this process run as the account, for good. Does nothing when it does so already.
    ///
    /// # Errors
    /// The process is not root's, or the system refuses.
    pub fn assume(&self) -> Result<(), Error> {
        self.within_reach()?;
        let Some(group) = self.group.filter(|_| geteuid().is_root()) else {
            return Ok(());
        };
        let failed = |what: &str, errno: nix::Error| {
            Error::io(format!("server.user, server.group: {what} failed")).because(errno)
        };
        match &self.user {
            Some((name, _)) => initgroups(name, group).map_err(|e| failed("initgroups", e))?,
            None => setgroups(&[group]).map_err(|e| failed("setgroups", e))?,
        }
        setgid(group).map_err(|e| failed("setgid", e))?;
        let Some((_, uid)) = self.user else {
            return Ok(());
        };
        setuid(uid).map_err(|e| failed("setuid", e))?;
        if !uid.is_root() && setuid(Uid::from_raw(0)).is_ok() {
            return Err(Error::io("server.user: the process can become root again"));
        }
        Ok(())
    }

    /// Whether the process has no other user and group than these.
    fn is_ours(&self) -> bool {
        let user = self.user.as_ref().map_or(geteuid(), |(_, uid)| *uid);
        let group = self.group.unwrap_or(getegid());
        [getuid(), geteuid()] == [user; 2] && [getgid(), getegid()] == [group; 2]
    }
}

fn running_as() -> String {
    let uid = geteuid();
    match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(server: &str) -> Config {
        let text = format!(
            "listen_addr: 127.0.0.1:0\nglobal_timeout_ms: 1\nmax_connections: 1\n\
             routes: {{/: {{upstream: \"http://a\"}}}}\nserver: {{{server}}}\n"
        );
        crate::config::parse(&text, Path::new("c.yml")).unwrap()
    }

    #[test]
    fn a_user_brings_its_group_and_a_group_key_wins() {
        let root = Account::look_up(&config("user: root")).unwrap();
        assert_eq!(root.group, Some(Gid::from_raw(0)));
        let both = Account::look_up(&config("user: root, group: daemon")).unwrap();
        assert_eq!(both.user, root.user);
        assert_ne!(both.group, root.group);
        let neither = Account::look_up(&config("")).unwrap();
        assert_eq!(neither, Account::default());
        neither.assume().unwrap();
    }

    #[test]
    fn an_unknown_name_is_a_problem_of_the_configuration() {
        for key in ["user", "group"] {
            let error = Account::look_up(&config(&format!("{key}: no-such-name"))).unwrap_err();
            assert!(error.is_config());
            let said = error.to_string();
            assert!(
                said.starts_with(&format!("c.yml: server.{key}: ")),
                "{said}"
            );
            assert!(said.contains("no-such-name"), "{said}");
        }
    }
}
