// 框架的网页写死成英文；读屏软件要知道这是中文，鼠标停在按钮上的字也要是中文。
document.documentElement.lang = "zh-CN";
const CHINESE = {
  "Copy message": "复制回答", "Copied message": "已复制", copy: "复制代码",
  "chatbot conversation": "对话", "Reset to default value": "恢复默认值",
};
function translate() {
  for (const [english, chinese] of Object.entries(CHINESE))
    for (const name of ["title", "aria-label"])
      for (const element of document.querySelectorAll(`[${name}="${english}"]`))
        element.setAttribute(name, chinese);
}
new MutationObserver(translate).observe(document, { childList: true, subtree: true });
