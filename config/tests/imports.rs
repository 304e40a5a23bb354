//! `[[import]]`: other files join a config, and mistakes are shown where they stand.

// Clippy allows this in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use config::{Config, ConfigFile, Diagnostic, Leases};

/// A folder with these files; the config is `gateway.toml`.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

fn load(folder: &Path) -> Result<Config, Vec<Diagnostic>> {
    Config::load(&folder.join("gateway.toml"))
}

/// What is wrong, without the folder's name.
fn errors(files: &[(&str, &str)]) -> Vec<String> {
    let folder = folder(files);
    let place = format!("{}/", folder.path().display());
    let found = load(folder.path()).unwrap_err();
    found.iter().map(|one| one.to_string().replace(&place, "")).collect()
}

const UPLINK: &str =
    "[uplink.wan]\ndriver = \"tap\"\ninterface = \"wan0\"\naddresses = [\"192.0.2.10/24\"]\n";

fn app(id: &str, host_port: u16) -> String {
    format!(
        "{{\"id\": \"{id}\", \"cmd\": \"run\",\n \"networks\": [{{\"name\": \"back\"}}],\n \
         \"container\": {{\"portMappings\": [\n  {{\"containerPort\": 80, \"hostPort\": \
         {host_port}}}]}}}}\n"
    )
}

#[test]
fn imported_apps_join_the_networks_of_the_config() {
    let config = format!(
        "{UPLINK}[network.back]\nsubnet = \"10.2.0.0/24\"\n[[import]]\ndialect = \"marathon\"\n\
         path = \"apps/*.json\"\nset = {{ netns_prefix = \"m-\", create = false }}\n"
    );
    let folder = folder(&[
        ("gateway.toml", &config),
        ("apps/a.json", &app("/a", 0)),
        ("apps/b.json", &app("/b", 31005)),
        ("apps/.hidden.json", "{"),
        ("apps/readme.txt", "{"),
    ]);
    let config = load(folder.path()).unwrap();
    let names: Vec<&str> = config.endpoints.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["a_0", "b_0"]);
    let text = config.to_toml();
    assert!(text.contains("netns = \"m-a_0\", create = false"), "{text}");
    assert!(text.contains("0.0.0.0:31005:80/tcp"), "{text}");
    let imported: Vec<_> = config.imported.iter().map(|path| path.file_name().unwrap()).collect();
    assert_eq!(imported, ["a.json", "b.json"]);
    // What is resolved stands alone.
    assert_eq!(Config::parse("x", &text).unwrap().to_toml(), text);
}

#[test]
fn mistakes_are_shown_in_the_imported_file() {
    let config = "[[import]]\ndialect = \"marathon\"\npath = \"*.json\"\n[netwrok]\n";
    assert_eq!(
        errors(&[
            ("gateway.toml", config),
            ("a.json", "{\"id\": \"/a\",\n \"cmd\": “run”}"),
            ("b.json", &app("/b", 31005)),
        ]),
        [
            "gateway.toml:4:2: netwrok: unknown key",
            "a.json:2:9: “ is a typographic quotation mark",
            "a.json:2:13: ” is a typographic quotation mark",
            "b.json:2:24: networks[0].name: there is no network \"back\"",
        ]
    );
}

#[test]
fn two_files_that_want_one_port_are_told_of_each_other() {
    let config =
        format!("{UPLINK}[network.back]\n[[import]]\ndialect = \"marathon\"\npath = \"?.json\"\n");
    let files = [
        ("gateway.toml", config.as_str()),
        ("a.json", &app("/a", 31005)),
        ("b.json", &app("/b", 31005)),
    ];
    assert_eq!(
        errors(&files),
        ["b.json:4:3: container.portMappings[0]: Bind for 0.0.0.0:31005 failed: port is already \
          allocated"]
    );
    let folder = folder(&files);
    let found = load(folder.path()).unwrap_err();
    let hint = found[0].hint.clone().unwrap();
    assert!(hint.starts_with("container.portMappings[0] has it, line 4 of "), "{hint}");
    assert!(found[0].related[0].file.ends_with("a.json"));
    assert!(config::render(&found, false).contains("a.json:4:3"), "both places are shown");
}

#[test]
fn wrong_imports_are_refused() {
    for (import, message) in [
        ("path = \"a.json\"", "gateway.toml:1:1: import[0]: dialect is missing"),
        ("dialect = \"cni\"", "gateway.toml:1:1: import[0]: path is missing"),
        (
            "dialect = \"maraton\"\npath = \"a.json\"",
            "gateway.toml:2:11: import[0].dialect: unknown word \"maraton\", expected marathon, \
             dcos, cni, docker",
        ),
        (
            "dialect = \"native\"\npath = \"a.json\"",
            "gateway.toml:2:11: import[0].dialect: unknown word \"native\", expected marathon, \
             dcos, cni, docker",
        ),
        (
            "dialect = \"marathon\"\npath = \"a.json\"",
            "gateway.toml:3:8: import[0].path: a.json: cannot read: No such file or directory (os \
             error 2)",
        ),
        (
            "dialect = \"marathon\"\npath = \"*.none\"\nset = { create = \"x\", offer = 1 }",
            "gateway.toml:4:18: import[0].set.create: expected true or false, found \"x\"",
        ),
    ] {
        let found = errors(&[("gateway.toml", &format!("[[import]]\n{import}\n"))]);
        assert!(found.contains(&message.to_owned()), "{import}: {found:?}");
    }
    let text = "[[import]]\ndialect = \"cni\"\npath = \"/etc/passwd\"\n";
    let found = Config::parse("x", text).unwrap_err();
    assert_eq!(found[0].message, "only a config that is a file imports others");
}

#[test]
fn a_wrong_charset_has_its_place() {
    let folder =
        folder(&[("gateway.toml", "[[import]]\ndialect = \"marathon\"\npath = \"a.json\"\n")]);
    std::fs::write(folder.path().join("a.json"), b"{\"id\":\n \"/\xe4\"}").unwrap();
    let found = load(folder.path()).unwrap_err();
    assert!(found[0].to_string().ends_with("a.json:2:4: this is not UTF-8"), "{}", found[0]);
    std::fs::write(folder.path().join("a.json"), b"\xff\xfe{\x00").unwrap();
    let found = load(folder.path()).unwrap_err();
    assert_eq!(found[0].hint.as_deref(), Some("it begins as UTF-16 does: save it as UTF-8"));
}

#[test]
fn what_was_read_once_stays_as_it_was() {
    let config = "[network.back]\n[[import]]\ndialect = \"marathon\"\npath = \"a.json\"\n";
    let plain = "{\"id\": \"/a\", \"cmd\": \"run\", \"networks\": [{\"name\": \"back\"}]}";
    let folder = folder(&[("gateway.toml", config), ("a.json", plain)]);
    let file = ConfigFile::read(&folder.path().join("gateway.toml")).unwrap();
    let before = Config::parse_file(&file, &Leases::default()).unwrap().to_toml();
    std::fs::write(folder.path().join("a.json"), "{").unwrap();
    assert_eq!(Config::parse_file(&file, &Leases::default()).unwrap().to_toml(), before);
    assert!(load(folder.path()).is_err(), "another reading sees the new file");
}

/// A file among the examples.
fn example(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

#[test]
fn imported_overlays_end_at_the_uplink_of_the_config() {
    let hosts = "192.0.2.9,192.0.2.10,192.0.2.12";
    for (dialect, file, set, network, vni) in [
        (
            "dcos",
            "dcos/config.yaml",
            format!("agent_index = 1, agent_hosts = {hosts:?}"),
            "m-dcos",
            1024,
        ),
        ("docker", "docker/inspect-overlay.json", "node_ip = \"192.0.2.31\"".into(), "mesh", 4097),
    ] {
        let import = format!(
            "{UPLINK}[[import]]\ndialect = {dialect:?}\npath = \"file\"\nset = {{ {set} }}\n"
        );
        let files = [("gateway.toml", &*import), ("file", &*example(file))];
        let config = load(folder(&files).path()).unwrap_or_else(|found| panic!("{found:#?}"));
        let overlay = config.network(network).unwrap().overlay.as_ref().unwrap();
        assert_eq!((overlay.vni, &*overlay.uplink), (vni, "wan"));
        assert_eq!(overlay.local_v4, Some([192, 0, 2, 10].into()));
        // The other nodes of Docker's know this one by another address.
        let warned = config.warnings.iter();
        let said = warned.filter(|one| one.message.ends_with("which is no uplink's address"));
        assert_eq!(said.count(), usize::from(dialect == "docker"));
    }
    // An agent that is not this machine, as the uplink shows.
    let import = format!(
        "{UPLINK}[[import]]\ndialect = \"dcos\"\npath = \"file\"\n\
         set = {{ agent_index = 0, agent_hosts = {hosts:?} }}\n"
    );
    let found = errors(&[("gateway.toml", &import), ("file", &example("dcos/config.yaml"))]);
    assert!(found[0].ends_with("192.0.2.9, which is no uplink's address"), "{found:#?}");
    assert!(found[1].contains("192.0.2.10 is our own end of the tunnel"), "{found:#?}");
}
