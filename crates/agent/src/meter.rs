//! Measures what is used, every few seconds, and tells the control plane. Nothing is kept here: what cannot be told is lost.

use crate::node::Node;
use std::sync::Arc;
use yun_engine::tasks::Task;

/// Measures for as long as the node lives.
pub(crate) async fn run(node: Arc<Node>, task: Task) {
    let stop = task.stopping().clone();
    let mut id = node.id.subscribe();
    let work = async {
        loop {
            let Ok(known) = id.wait_for(Option::is_some).await.map(|id| *id) else { return };
            let Some(known) = known else { continue };
            task.working("measure");
            match node.drivers.meter.measure(&node.live()).await {
                Ok(measured) => match node.link.measured(known, measured).await {
                    Ok(()) => task.idle("told", None),
                    Err(error) => task.failed(error.to_string(), None),
                },
                Err(error) => task.failed(error.to_string(), None),
            }
            node.clock.sleep(node.config.measure).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = work => {}
    }
}
