# 教育行业大模型课程实验。两条命令：make lab(跑完整个实验)、make test(跑全部测试)。
PY   ?= python3
ARGS ?=
PIP_ARGS ?=
VENV := .venv
BIN  := $(VENV)/bin

# 小模型在多线程下会因 OpenMP 空转慢几十倍；内置模型不需要联网。
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_PROGRESS_BARS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export GRADIO_ANALYTICS_ENABLED ?= False
export PYTHONUTF8 ?= 1

# 最费时的排在最前（次序在 tests/conftest.py）；一个文件（全部 notebook 算一个）总在同一个进程里
PARALLEL := -n 2 --no-loadscope-reorder
NOTEBOOKS := $(sort $(wildcard notebooks/[0-9]*.ipynb))
# 印记文件只在安装成功之后写下；装到一半被打断，下次会重新安装。
VENV_STAMP := $(VENV)/.created
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test

.PHONY: help lab test quick jupyter demo check assignment autograde lint clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:  ## 列出可用的命令
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

lab: $(STAMP)  ## 安装（只有第一次）并跑完整个实验，报告在 runs/<时间>/report.html
	$(BIN)/labutils run $(ARGS)

test: $(TEST_STAMP)  ## 跑全部测试：每个 notebook 的每个单元与 tests/，两个进程分工
	$(BIN)/python -m pytest $(PARALLEL) --nbval-lax --nbval-current-env $(ARGS) $(NOTEBOOKS) tests

quick: $(TEST_STAMP)  ## 一分多钟的检查，改一点就跑一次：风格、结构与不训练、不开浏览器的测试
	$(BIN)/ruff check .
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow" --ignore=tests/browser $(ARGS) tests

jupyter: $(STAMP)  ## 用 JupyterLab 打开 notebook 00
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

demo: $(STAMP)  ## 打开对话网页（最近一次微调的结果）
	$(BIN)/labutils demo $(ARGS)

check: $(STAMP)  ## 检查环境：版本、磁盘、内存、字体……
	$(BIN)/labutils check

assignment: $(TEST_STAMP)  ## 教师：生成发给学生的 notebook，在 grading/release/
	$(BIN)/python -m tools.assignment release

autograde: $(TEST_STAMP)  ## 教师：给 grading/submitted/ 里的作业评分，得分在 grading/points.csv
	$(BIN)/python -m tools.assignment grade

lint: $(TEST_STAMP)  ## 检查代码风格
	$(BIN)/ruff check .

clean:  ## 删除虚拟环境与缓存（保留 output/ 和 runs/）
	rm -rf $(VENV) *.egg-info build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV_STAMP):
	@$(PY) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || { \
	  echo "需要 Python 3.11–3.14，而 $(PY) 不是；请安装后重试，或指定：make lab PY=python3.11" >&2; exit 1; }
	$(PY) -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "建立虚拟环境失败；Debian/Ubuntu 请先安装 python3-venv" >&2; exit 1; }
	@touch $@

# 学生用的一种，另加测试与评分要用的一种；装了后一种，前一种就不必再装。
# JupyterLab 装好就是中文菜单，也不弹"是否接收新闻"的询问
$(TEST_STAMP): EXTRA := [test]
$(STAMP) $(TEST_STAMP): pyproject.toml constraints.txt configs/jupyterlab/overrides.json | $(VENV_STAMP)
	$(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt -e '.$(EXTRA)'
	@mkdir -p $(VENV)/share/jupyter/lab/settings
	@cp configs/jupyterlab/overrides.json $(VENV)/share/jupyter/lab/settings/
	@touch $(STAMP) $@
