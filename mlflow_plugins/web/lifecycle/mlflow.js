// In MLflow's own pages: a link to the lifecycle page, the comment of the stage dialog, and no assistant.
(() => {
  const script = document.currentScript;
  const root = script.src.replace(/\/mlflow\.js$/, "");

  if (script.dataset.assistant === "off") {
    document.documentElement.classList.add("ai-hub-no-assistant");
    localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
    localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
  }

  // MLflow's stage dialog has a field for a comment and leaves it out of its request.
  // It counts for the dialog that it was typed in, which is gone a moment before the request or after it.
  const AFTER_DIALOG_MS = 1500;
  const LONGEST_HEADER = 7000;
  let comment = "";
  let field = null;
  let lastShown = 0;
  document.addEventListener("input", (event) => {
    if (event.target.matches('[role="dialog"] textarea')) {
      field = event.target;
      comment = field.value.trim();
      lastShown = Date.now();
    }
  });
  const forgetClosedDialog = () => {
    if (field?.isConnected && field.getClientRects().length > 0) {
      lastShown = Date.now();
    } else if (Date.now() - lastShown > AFTER_DIALOG_MS) {
      comment = "";
      field = null;
    }
  };
  const asHeader = (text) => {
    let shortened = text;
    while (encodeURIComponent(shortened).length > LONGEST_HEADER) {
      shortened = `${shortened.slice(0, -50)}…`;
    }
    return encodeURIComponent(shortened);
  };
  // The table of versions has room for tags that people read; a version's own page shows all.
  const MACHINE = new Set(["manifest_sha256", "ai_hub.card", "ai_hub.metadata", "ai_hub.metrics"]);
  const withoutMachineTags = async (answer) => {
    if (!answer.ok) {
      return answer;
    }
    const found = await answer.json();
    for (const version of found.model_versions ?? []) {
      version.tags = version.tags?.filter((tag) => !MACHINE.has(tag.key));
    }
    const { status, headers } = answer;
    return new Response(JSON.stringify(found), { status, headers });
  };
  const send = window.fetch;
  window.fetch = (resource, options) => {
    const address = String(resource instanceof Request ? resource.url : resource);
    forgetClosedDialog();
    if (comment && address.includes("mlflow/model-versions/transition-stage")) {
      const headers = new Headers(options?.headers ?? (resource instanceof Request ? resource.headers : {}));
      headers.set("X-AI-Hub-Reason", asHeader(comment));
      comment = "";
      return send(resource, { ...options, headers });
    }
    const answer = send(resource, options);
    return address.includes("mlflow/model-versions/search") ? answer.then(withoutMachineTags) : answer;
  };

  // The address of the lifecycle page for one of MLflow's pages about models, and what to call it.
  const target = () => {
    const [path, query] = location.hash.slice(1).split("?");
    const [, models, model, , version] = path.split("/");
    if (models !== "models") {
      return null;
    }
    const tenant = new URLSearchParams(query).get("workspace") ?? "default";
    const parts = [encodeURIComponent(tenant)];
    if (model) {
      parts.push(model, ...(version ? ["versions", version] : []));
    }
    const name = model ? decodeURIComponent(model) + (version ? ` ${version}` : "") : tenant;
    return { address: `${root}/${parts.join("/")}`, text: `Lifecycle of ${name}` };
  };

  const COPIES =
    "Copies this version to another registered model. To put it into Production, use its lifecycle page, " +
    "the alias production, or the stage menu.";
  const link = document.createElement("a");
  link.className = "ai-hub-lifecycle";
  const show = () => {
    forgetClosedDialog();
    const found = target();
    link.hidden = !found;
    link.style.display = found ? "" : "none";
    if (found && link.textContent !== found.text) {
      link.textContent = found.text;
    }
    document.querySelector(".promote-model-btn")?.setAttribute("title", COPIES);
    if (found && link.href !== found.address) {
      link.href = found.address;
    }
  };
  document.addEventListener("DOMContentLoaded", () => {
    document.body.append(link);
    show();
    // MLflow's router changes the address without an event
    setInterval(show, 300);
  });
})();
