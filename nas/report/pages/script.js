const opened = (event) => event.target instanceof Element && event.target.closest("[data-open]");
const show = (element) => document.getElementById(element.dataset.open)?.showModal();
addEventListener("click", (event) => {
  if (event.target instanceof HTMLDialogElement) event.target.close();
  const element = opened(event);
  if (element) show(element);
});
addEventListener("keydown", (event) => {
  const element = (event.key === "Enter" || event.key === " ") && opened(event);
  if (element && element.tagName !== "BUTTON") { event.preventDefault(); show(element); }
});
const refresh = async () => {
  if (document.hidden || document.querySelector("dialog[open]")) return;
  const answer = await fetch(location.href).catch(() => null);
  if (!answer || !answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const unfolded = [...document.querySelectorAll("details[open]")].map((each) => each.id);
  if (document.querySelector("dialog[open]")) return;
  document.querySelector("main").replaceWith(page.querySelector("main"));
  document.body.toggleAttribute("data-live", page.body.hasAttribute("data-live"));
  for (const id of unfolded) document.getElementById(id)?.setAttribute("open", "");
};
setInterval(() => { if (document.body.hasAttribute("data-live")) refresh(); }, 4000);
