"""没有安装命令行入口时的等价写法：python -m labutils run。"""

from labutils.lab.cli import main

if __name__ == "__main__":
    main()
