//! `docker top`: the processes of a container, as its own `ps` shows them.

use super::{
    super::{
        body::{Body, ok},
        fault::{Answer, Fault},
        names,
        server::Ask,
    },
    exec::run,
    find,
};
use http::Response;
use serde_json::json;

/// Lists processes.
pub(crate) async fn top(ask: Ask, text: &str) -> Answer<Response<Body>> {
    let instance = find(&ask, text).await?;
    let arguments: Vec<&str> = ask.query.get("ps_args").map_or_else(Vec::new, |args| args.split_whitespace().collect());
    let ran = run(&ask, &instance, &[&["ps"], &arguments[..]].concat()).await?;
    if ran.end != 0 || ran.stdout.is_empty() {
        return Err(Fault::broken(format!(
            "ps in container {} says: {}: give it arguments that it knows, as in docker top {text} -o pid,args",
            names::of(&instance),
            String::from_utf8_lossy(&ran.stderr).trim()
        )));
    }
    let (titles, processes) = table(&String::from_utf8_lossy(&ran.stdout));
    Ok(ok(&json!({ "Titles": titles, "Processes": processes })))
}

/// The words of a table whose last column may have spaces. The `ps` that listed the others is left out.
fn table(text: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let mut lines = text.lines();
    let titles: Vec<String> = lines.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let rows = lines.map(|line| {
        let mut rest = line.trim();
        let mut row = Vec::new();
        for _ in 1..titles.len() {
            let (word, tail) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            row.push(word.to_owned());
            rest = tail.trim_start();
        }
        row.push(rest.to_owned());
        row
    });
    let rows = rows.filter(|row| !row.last().is_some_and(|last| last == "ps" || last.starts_with("ps "))).collect();
    (titles, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_column_keeps_its_spaces() {
        let (titles, rows) = table("PID   USER     COMMAND\n    1 root     sleep 1000 now\n    9 root     ps\n");
        assert_eq!(titles, ["PID", "USER", "COMMAND"]);
        assert_eq!(rows, [["1", "root", "sleep 1000 now"]]);
    }
}
